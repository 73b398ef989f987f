//! A TOML document read key by key: every problem gets its line and column, and all of them are told at once.
//!
//! Each key is named once, where it is read, together with its default and its limits. What is never asked for is
//! an unknown key.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use super::environment::{self, Variables};
use super::nearest::nearest;
use super::problem::{Place, Problem, Problems};
use super::section::Section;
use super::values::Values;

/// A key of the configuration and what holds when it is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// `hold.wait_s`; keys of a list of tables without index: `push.apns.key_id`.
    pub name: String,
    /// `None`: what holds depends on other keys or on the machine, or the key is needed.
    pub default: Option<toml::Value>,
    /// Whether it stands in `[[…]]`, so that it may be there several times.
    pub is_in_list: bool,
}

/// The text of a file before it is understood.
#[derive(Debug)]
pub(super) struct Source {
    /// As the operator named it.
    file: PathBuf,
    text: String,
    /// What the environment sets, as TOML, and what is wrong there.
    environment: String,
    wrong_environment: Vec<Problem>,
}

impl Source {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self { file: file.to_owned(), text: text.to_owned(), environment: String::new(), wrong_environment: Vec::new() }
    }

    /// Of a file, or without one an empty text.
    pub(super) fn of(file: Option<&Path>) -> Result<Self, Problems> {
        file.map_or_else(|| Ok(Self::new(Path::new("built-in defaults"), "")), Self::open)
    }

    /// With keys that stand for those of the text.
    pub(super) fn with_environment(self, variables: Variables, keys: &[Key]) -> Self {
        let (environment, wrong_environment) = environment::document(variables, keys);
        Self { environment, wrong_environment, ..self }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn open(file: &Path) -> Result<Self, Problems> {
        let whole = |text| Problems(vec![Problem { file: file.to_owned(), place: None, key: String::new(), text }]);
        let bytes = std::fs::read(file).map_err(|error| whole(format!("cannot be read: {error}")))?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(file, &text)),
            Err(_) => Err(whole("is not UTF-8 text".to_owned())),
        }
    }
}

/// A parsed document, what was asked of it, and what was found wrong.
pub(super) struct Document<'t> {
    source: &'t Source,
    root: Spanned<DeTable<'t>>,
    environment: Spanned<DeTable<'t>>,
    values: RefCell<Values>,
    keys: RefCell<Vec<Key>>,
    tables: RefCell<Vec<String>>,
    problems: RefCell<Vec<(Option<usize>, Problem)>>,
    /// Problems in other files that this one names, and of the environment.
    elsewhere: RefCell<Vec<Problem>>,
}

impl<'t> Document<'t> {
    /// Fails at the first place where the text is not TOML: what follows it would be guesses.
    pub(super) fn parse(source: &'t Source) -> Result<Self, Problems> {
        let table = |text: &'t str| {
            DeTable::parse(text).map_err(|error| {
                Problems(vec![Problem {
                    file: source.file.clone(),
                    place: error.span().map(|span| Place::of(span.start, text)),
                    key: String::new(),
                    text: format!("this is not TOML: {}", error.message()),
                }])
            })
        };
        Ok(Self {
            source,
            root: table(&source.text)?,
            environment: table(&source.environment)?,
            values: RefCell::default(),
            keys: RefCell::default(),
            tables: RefCell::default(),
            problems: RefCell::default(),
            elsewhere: RefCell::new(source.wrong_environment.clone()),
        })
    }

    /// The table `[name]`; an absent one has every key at its default.
    pub(super) fn section(&self, name: &'static str) -> Section<'_> {
        Section::root(self, self.root.get_ref(), self.environment.get_ref()).section(name)
    }

    /// The table `[name]`, whose keys are free.
    pub(super) fn free_table(&self, name: &'static str) -> Option<&DeTable<'t>> {
        self.know(Key { name: name.to_owned(), default: None, is_in_list: false });
        self.root.get_ref().get(name).and_then(|value| value.get_ref().as_table())
    }

    /// Notes that a key was asked for. The same key of several tables in a list counts once.
    pub(super) fn know(&self, key: Key) {
        let mut keys = self.keys.borrow_mut();
        if keys.iter().all(|known| known.name != key.name) {
            keys.push(key);
        }
    }

    /// Notes what a key is set to.
    pub(super) fn holds(&self, name: String, value: String) {
        self.values.borrow_mut().set(name, value);
    }

    /// Notes what stands in a file that a key names.
    pub(super) fn has_read(&self, name: String, content: &[u8]) {
        self.values.borrow_mut().set_content(name, content);
    }

    /// What the keys that were asked for are set to.
    pub(super) fn values(&self) -> Values {
        self.values.borrow().clone()
    }

    /// Notes that a table was asked for.
    pub(super) fn know_table(&self, name: &str) {
        self.tables.borrow_mut().push(name.to_owned());
    }

    /// Says that something at a byte offset is wrong.
    pub(super) fn wrong(&self, at: Option<usize>, key: String, text: impl Display) {
        let place = Some(Place::of(at.unwrap_or(0), &self.source.text));
        let problem = Problem { file: self.source.file.clone(), place, key, text: text.to_string() };
        self.problems.borrow_mut().push((at, problem));
    }

    /// Says that a key which the environment sets is wrong.
    pub(super) fn wrong_in_environment(&self, key: &str, text: impl Display) {
        let problem = environment::wrong(&environment::variable(key), key, &text.to_string());
        self.elsewhere.borrow_mut().push(problem);
    }

    /// Adds what is wrong in another file.
    pub(super) fn wrong_elsewhere(&self, problems: Problems) {
        self.elsewhere.borrow_mut().extend(problems.0);
    }

    /// A path of this document: relative ones start at its folder.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.source.file.parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
    }

    /// Every key that was asked for, in the order of asking.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.keys.borrow().clone()
    }

    /// All problems of the tables that were asked for, unknown keys among them, in the order of the file.
    /// `whole`: other tables are unknown ones.
    pub(super) fn finish(self, whole: bool) -> Result<(), Problems> {
        self.find_unknown(self.root.get_ref(), "", "", whole);
        let mut problems = self.problems.into_inner();
        // Stable: several problems of one place stay in the order in which they were found.
        problems.sort_by_key(|(at, _)| *at);
        let mut all: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        all.extend(self.elsewhere.into_inner());
        if all.is_empty() { Ok(()) } else { Err(Problems(all)) }
    }

    fn find_unknown(&self, table: &DeTable<'_>, shown: &str, schema: &str, report: bool) {
        for (key, value) in table {
            let name = join(schema, key.get_ref());
            let shown = join(shown, key.get_ref());
            if self.tables.borrow().contains(&name) {
                if let Some(inner) = value.get_ref().as_table() {
                    self.find_unknown(inner, &shown, &name, true);
                }
                for (index, item) in value.get_ref().as_array().into_iter().flatten().enumerate() {
                    if let Some(inner) = item.get_ref().as_table() {
                        self.find_unknown(inner, &format!("{shown}[{index}]"), &name, true);
                    }
                }
            } else if report && !self.keys.borrow().iter().any(|known| known.name == name) {
                self.wrong(Some(key.span().start), shown, self.unknown(key.get_ref(), schema));
            }
        }
    }

    fn unknown(&self, key: &str, schema: &str) -> String {
        let keys = self.keys.borrow();
        let tables = self.tables.borrow();
        let all = || keys.iter().map(|key| key.name.as_str()).chain(tables.iter().map(String::as_str));
        let siblings: Vec<_> = all().filter_map(|name| child(name, schema)).collect();
        if let Some(near) = nearest(key, siblings.iter().copied()) {
            return format!("not a known key; did you mean `{near}`?");
        }
        let elsewhere = all().find(|name| name.rsplit('.').next() == Some(key) && name.contains('.'));
        match elsewhere.and_then(|name| name.rsplit_once('.')) {
            Some((table, _)) => format!("not a known key here; it belongs into [{table}]"),
            None => format!("not a known key; known here: {}", siblings.join(", ")),
        }
    }
}

/// A key's full name.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// The last part of `name` if it stands directly in `parent`.
fn child<'n>(name: &'n str, parent: &str) -> Option<&'n str> {
    let rest = if parent.is_empty() { name } else { name.strip_prefix(parent)?.strip_prefix('.')? };
    (!rest.contains('.')).then_some(rest)
}
