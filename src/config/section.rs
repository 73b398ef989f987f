//! One table of a TOML document, read key by key: each key once, with its type, its default and its limits.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Key, join};
use super::values::{self, Files};

/// One table of a document.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    /// As shown: `push.apns[1]`.
    name: String,
    /// As known: `push.apns`.
    schema: String,
    table: Option<&'d DeTable<'d>>,
    /// What stands for keys of the table; of a table of a list nothing does.
    environment: Option<&'d DeTable<'d>>,
    is_in_list: bool,
    /// Byte offset of the table's header; `None` for an absent one.
    at: Option<usize>,
}

impl<'d> Section<'d> {
    /// The whole document as one table.
    pub(super) fn root(document: &'d Document<'d>, table: &'d DeTable<'d>, environment: &'d DeTable<'d>) -> Self {
        Self {
            document,
            name: String::new(),
            schema: String::new(),
            table: Some(table),
            environment: Some(environment),
            is_in_list: false,
            at: None,
        }
    }

    fn entry(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.set_outside(key).or_else(|| self.table.and_then(|table| table.get(key)))
    }

    fn set_outside(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.environment.and_then(|table| table.get(key))
    }

    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        self.entry(key).and_then(|value| value.get_ref().as_array()).is_some_and(|items| items.is_empty())
    }

    /// Whether the document sets the key to a list without this text.
    pub(super) fn lacks(&self, key: &str, text: &str) -> bool {
        let items = self.entry(key).and_then(|value| value.get_ref().as_array());
        items.is_some_and(|items| items.iter().all(|item| item.get_ref().as_str() != Some(text)))
    }

    /// A table inside this one.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let schema = join(&self.schema, key);
        self.document.know_table(&schema);
        let entry = self.table.and_then(|table| table.get(key));
        let table = entry.and_then(|value| value.get_ref().as_table());
        if let (Some(_), None) = (entry, table) {
            self.wrong(key, format_args!("a table is expected here: write [{schema}]"));
        }
        Self {
            document: self.document,
            name: join(&self.name, key),
            schema,
            table,
            environment: self.set_outside(key).and_then(|value| value.get_ref().as_table()),
            is_in_list: self.is_in_list,
            at: entry.map(|value| value.span().start),
        }
    }

    /// The tables `[[key]]` inside this one. With `probe` set an absent list is read as one empty table, to learn
    /// its keys.
    pub(super) fn sections(&self, key: &'static str, probe: bool) -> Vec<Self> {
        let schema = join(&self.schema, key);
        self.document.know_table(&schema);
        let section = |index: usize, table, at| Self {
            document: self.document,
            name: format!("{schema}[{index}]"),
            schema: schema.clone(),
            table,
            environment: None,
            is_in_list: true,
            at,
        };
        let Some(entry) = self.entry(key) else {
            return if probe { vec![section(0, None, None)] } else { Vec::new() };
        };
        let items = entry.get_ref().as_array();
        if items.is_none_or(|items| items.iter().any(|item| !item.get_ref().is_table())) {
            self.wrong(key, format_args!("a list of tables is expected here: write [[{schema}]], with two brackets"));
            return Vec::new();
        }
        let items = items.into_iter().flatten().enumerate();
        items.map(|(index, item)| section(index, item.get_ref().as_table(), Some(item.span().start))).collect()
    }

    /// Says that a key's value is wrong, or that the key is missing.
    pub(super) fn wrong(&self, key: &str, text: impl Display) {
        let at = self.entry(key).map(|value| value.span().start).or(self.at);
        self.wrong_at(key, at, &join(&self.name, key), text);
    }

    /// `name`: of the key, or of an item of its list.
    fn wrong_at(&self, key: &str, at: Option<usize>, name: &str, text: impl Display) {
        if self.set_outside(key).is_some() {
            self.document.wrong_in_environment(&join(&self.schema, key), text);
        } else {
            self.document.wrong(at, name.to_owned(), text);
        }
    }

    pub(super) fn document(&self) -> &'d Document<'d> {
        self.document
    }

    fn asked<T: Into<toml::Value>>(&self, key: &str, default: Option<T>) -> Option<&'d DeValue<'d>> {
        let default = default.map(Into::into);
        let value = self.entry(key).map(Spanned::get_ref);
        let shown = value.map(values::literal).or_else(|| default.as_ref().map(ToString::to_string));
        if let Some(shown) = shown {
            self.document.holds(join(&self.name, key), shown);
        }
        self.document.know(Key { name: join(&self.schema, key), default, is_in_list: self.is_in_list });
        value
    }

    fn wrong_type(&self, key: &str, value: &DeValue<'_>, expected: &str) {
        let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
        self.wrong(key, format_args!("{article} {} stands here; {expected} is expected", value.type_str()));
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.asked(key, Some(default)) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false");
            default
        })
    }

    /// A whole number. The default may be outside of `limits` where it has a meaning of its own.
    pub(super) fn integer(&self, key: &str, default: u32, limits: RangeInclusive<u32>) -> u32 {
        self.number(key, default, limits, Unit { symbol: "", why: "" })
    }

    /// How many of something.
    pub(super) fn count(&self, key: &str, default: u32, limits: RangeInclusive<u32>) -> usize {
        usize::try_from(self.integer(key, default, limits)).unwrap_or(usize::MAX)
    }

    /// A SIP status; `wrong` says what a number that is not `allowed` is.
    pub(super) fn status(
        &self,
        key: &str,
        default: u16,
        allowed: impl FnOnce(u16) -> bool,
        wrong: &'static str,
    ) -> u16 {
        let number = self.integer(key, default.into(), 0..=u32::MAX);
        let status = u16::try_from(number).ok().filter(|status| allowed(*status));
        status.unwrap_or_else(|| {
            self.wrong(key, format_args!("{number} is {wrong}"));
            default
        })
    }

    /// A time in seconds; `why` names the source of the limits, where they have one.
    pub(super) fn seconds(&self, key: &str, default: u32, limits: RangeInclusive<u32>, why: &'static str) -> Duration {
        Duration::from_secs(self.number(key, default, limits, Unit { symbol: " s", why }).into())
    }

    /// A time in milliseconds.
    pub(super) fn millis(&self, key: &str, default: u32, limits: RangeInclusive<u32>) -> Duration {
        Duration::from_millis(self.number(key, default, limits, Unit { symbol: " ms", why: "" }).into())
    }

    fn number(&self, key: &str, default: u32, limits: RangeInclusive<u32>, unit: Unit) -> u32 {
        let Some(value) = self.asked(key, Some(i64::from(default))) else { return default };
        let Some(number) = value.as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return default;
        };
        let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
        let (low, high) = (*limits.start(), *limits.end());
        let within = parsed.and_then(|number| u32::try_from(number).ok()).filter(|number| limits.contains(number));
        within.unwrap_or_else(|| {
            let Unit { symbol, why } = unit;
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            let is_low = parsed.is_some_and(|number| number < i128::from(low));
            let (side, limit) = if is_low { ("under", low) } else { ("over", high) };
            let kind = if is_low { "least" } else { "limit" };
            self.wrong(key, format_args!("{number} is {side} the {kind} of {limit}{symbol}{why}; use {low} to {high}"));
            default
        })
    }

    fn text(&self, key: &str, value: Option<&'d DeValue<'d>>) -> Option<&'d str> {
        let value = value?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string");
        }
        text
    }

    /// A string; may be empty.
    pub(super) fn string(&self, key: &str, default: &'static str) -> &'d str {
        let value = self.asked(key, Some(default));
        self.text(key, value).unwrap_or(default)
    }

    /// A string that is off when empty, as it is by default.
    pub(super) fn optional(&self, key: &str) -> Option<&'d str> {
        let value = self.asked(key, Some(""));
        self.text(key, value).filter(|text| !text.is_empty())
    }

    /// A string that has no default of its own; empty is the same as absent.
    pub(super) fn bare(&self, key: &str) -> Option<&'d str> {
        let value = self.asked(key, None::<&str>);
        self.text(key, value).filter(|text| !text.is_empty())
    }

    /// Reads a text by `parse` and tells its error as a problem of the key.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Cow<'static, str>>,
    ) -> Option<T> {
        parse(text).map_err(|error| self.wrong(key, format_args!("{text:?} {error}"))).ok()
    }

    /// One of some named values; the first one is the default.
    pub(super) fn choice<T: Copy, const N: usize>(&self, key: &str, choices: [(&'static str, T); N]) -> T {
        let (default, standard) = choices[0];
        let value = self.asked(key, Some(default));
        let Some(text) = self.text(key, value) else { return standard };
        if let Some((_, chosen)) = choices.into_iter().find(|(name, _)| *name == text) {
            return chosen;
        }
        let names = choices.map(|(name, _)| format!("{name:?}")).join(" or ");
        self.wrong(key, format_args!("{text:?} is not known; use {names}"));
        standard
    }

    /// A list of strings, each read by `parse`; those that are wrong are told and left out. An absent key is read as
    /// `default` says; without one it is `None`.
    pub(super) fn list<T>(
        &self,
        key: &str,
        default: Option<&[&str]>,
        mut parse: impl FnMut(&str) -> Result<T, Cow<'static, str>>,
    ) -> Option<Vec<T>> {
        let standard = default.map(|texts| texts.iter().map(|text| toml::Value::from(*text)).collect::<Vec<_>>());
        let Some(value) = self.asked(key, standard) else {
            return default.map(|texts| texts.iter().filter_map(|text| parse(text).ok()).collect());
        };
        let Some(items) = value.as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return Some(Vec::new());
        };
        let mut parsed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let name = || join(&self.name, &format!("{key}[{index}]"));
            let Some(text) = item.get_ref().as_str() else {
                self.wrong_at(key, Some(item.span().start), &name(), "a string is expected here");
                continue;
            };
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(error) => {
                    self.wrong_at(key, Some(item.span().start), &name(), format_args!("{text:?} {error}"));
                }
            }
        }
        Some(parsed)
    }

    /// A list of whole numbers, `most` at most, each larger than the one before it.
    pub(super) fn ascending(&self, key: &str, default: &[u32], limits: RangeInclusive<u32>, most: usize) -> Vec<u32> {
        let standard: Vec<_> = default.iter().map(|number| toml::Value::from(i64::from(*number))).collect();
        let Some(value) = self.asked(key, Some(standard)) else { return default.to_vec() };
        let Some(items) = value.as_array() else {
            self.wrong_type(key, value, "a list of whole numbers");
            return default.to_vec();
        };
        let number = |item: &Spanned<DeValue<'_>>| {
            let number = item.get_ref().as_integer()?;
            u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| limits.contains(number))
        };
        let numbers: Vec<_> = items.iter().map_while(number).collect();
        let (low, high) = (limits.start(), limits.end());
        if numbers.len() < items.len() {
            self.wrong(key, format_args!("each is to be a whole number from {low} to {high}"));
        } else if numbers.len() > most {
            self.wrong(key, format_args!("{} numbers are over the limit of {most}", numbers.len()));
        } else if !numbers.is_sorted_by(|one, next| one < next) {
            self.wrong(key, "each is to be larger than the one before it");
        } else {
            return numbers;
        }
        default.to_vec()
    }

    /// The path of a file, relative to the folder of the document; `None` when empty.
    pub(super) fn path(&self, key: &str, default: &'static str) -> Option<PathBuf> {
        let path = self.string(key, default);
        (!path.is_empty()).then(|| self.document.resolve(path))
    }

    /// What stands in a file that the key names; tells it when it cannot be read.
    pub(super) fn file_text(&self, key: &str, file: &Path) -> Option<String> {
        std::fs::read_to_string(file)
            .inspect(|text| self.has_read(key, text.as_bytes()))
            .map_err(|error| self.wrong(key, format_args!("{} cannot be read: {error}", file.display())))
            .ok()
    }

    /// Notes what stands in a file that the key names, so that a reload sees whether it is another one.
    pub(super) fn has_read(&self, key: &str, content: &[u8]) {
        self.document.has_read(join(&self.name, key), content);
    }

    /// What the files that keys of this table name held.
    pub(super) fn files(&self) -> Files {
        self.document.values().files_of(&self.name)
    }
}

/// How a number is told to people.
struct Unit {
    symbol: &'static str,
    why: &'static str,
}
