//! `check`: reads the configuration and what it names, and says what is wrong or what it comes to.

use std::fmt::{self, Display, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use jiff::Timestamp;

use super::certificates::{self, Finding};
use super::{COULD_NOT, WRONG, complain, load, present_file, print, secrets, wrong};
use crate::config::{Auth, Config, ContactForm, Mode, PushWhen};
use crate::server::{self, Asked};

/// Exit code 0 when the configuration is good, else 2. With `is_online` what it names is asked, too: exit code 1 when
/// something of it is not well.
pub fn check(file: Option<&Path>, is_online: bool) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(problems) => return wrong(file, &problems),
    };
    let file = present_file(file);
    let folder = file.and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    let findings = certificates::findings(&config.values, folder, now());
    let wrongs = findings.iter().filter_map(Finding::wrong);
    if wrongs.clone().count() > 0 {
        wrongs.for_each(complain);
        return ExitCode::from(WRONG);
    }
    let name = file.map_or_else(|| "built-in defaults".into(), Path::to_string_lossy);
    print(format_args!("{name}: good\n{}", Summary(&config)));
    let notes = findings.iter().map(Finding::text).map(str::to_owned);
    for note in secrets::notes(&config.values, folder).into_iter().chain(notes) {
        print(format_args!("  {:<11} {note}\n", "note:"));
    }
    if is_online { ask(&config) } else { ExitCode::SUCCESS }
}

#[expect(clippy::disallowed_methods, reason = "whether a certificate is good today is a question of today")]
fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}

fn ask(config: &Config) -> ExitCode {
    let answers = match server::online(config) {
        Ok(answers) => answers,
        Err(error) => {
            complain(format_args!("cannot ask: {error}"));
            return ExitCode::from(COULD_NOT);
        }
    };
    let is_well = answers.iter().all(|asked| asked.answer.is_ok());
    for Asked { what, answer } in answers {
        match answer {
            Ok(answer) => print(format_args!("  well:       {what}: {answer}\n")),
            Err(wrong) => print(format_args!("  NOT WELL:   {what}: {wrong}\n")),
        }
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(COULD_NOT) }
}

/// What a server with this configuration does, a line for each matter.
struct Summary<'c>(&'c Config);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let mut line = |title: &str, text: String| writeln!(f, "  {title:<11} {text}");
        line("listens", listens(config))?;
        line("registers", registers(config))?;
        line("calls from", list(&config.softswitch.trusted).unwrap_or_else(|| "nobody".to_owned()))?;
        line("holds", holds(config))?;
        line("pushes", pushes(config))?;
        line("keeps", format!("{} (node {})", config.node.data_dir.display(), config.node.id))?;
        line("admin", admin(config))?;
        config.notes().into_iter().try_for_each(|note| line("note:", note.to_owned()))
    }
}

fn list<T: Display>(items: &[T]) -> Option<String> {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn listens(config: &Config) -> String {
    let mut text = list(&config.sip.listen).unwrap_or_default();
    if let Some(advertise) = &config.sip.advertise {
        // Writing into a string does not fail.
        let _ = write!(text, " as {advertise}");
    }
    let _ = write!(text, " with {} workers", config.sip.workers);
    text
}

fn registers(config: &Config) -> String {
    let register = &config.register;
    let aliases = if register.domain_aliases { " as one" } else { "" };
    let domains = list(&register.domains).map_or_else(|| "any domain".to_owned(), |domains| domains + aliases);
    match &register.mode {
        Mode::Relay => {
            let uri = config.softswitch.uri.as_ref().map(ToString::to_string).unwrap_or_default();
            let form = match register.contact {
                ContactForm::Alias => "alias contacts",
                ContactForm::Path => "Path",
            };
            format!("{domains}: relayed to {uri} with {form}")
        }
        Mode::Local(Auth::Digest(users)) => format!("{domains}: answered here, Digest for {} users", users.len()),
        Mode::Local(Auth::None { open_networks }) => {
            let networks = list(open_networks).unwrap_or_else(|| "nowhere".to_owned());
            format!("{domains}: answered here, without authentication from {networks}")
        }
    }
}

fn holds(config: &Config) -> String {
    let hold = &config.hold;
    let provisional = hold.provisional.unwrap_or(100);
    let when = match hold.push_when {
        PushWhen::Always => "always pushes".to_owned(),
        PushWhen::Unreachable => format!("pushes after {} ms of silence", config.hold.probe.as_millis()),
    };
    let methods = hold.methods.join(", ");
    format!("{methods} for {} s with {provisional}, then {}; {when}", hold.wait.as_secs(), hold.no_return_status)
}

fn pushes(config: &Config) -> String {
    let fcm = config.push.fcm.iter().map(|account| format!("FCM project {}", account.project_id));
    let apns = config.push.apns.iter().map(|account| match (&account.team_id, &account.topic) {
        (Some(team), _) => format!("APNs team {team}"),
        (None, Some(topic)) => format!("APNs certificate for {topic}"),
        (None, None) => "APNs certificate".to_owned(),
    });
    // A query may hold a key.
    let callback = config.push.callback.iter().filter_map(|gateway| gateway.url.split('?').next());
    let callback = callback.map(|url| format!("callback {url}"));
    let webpush = config.push.webpush.iter().map(|webpush| format!("Web Push for key {}", webpush.public_key));
    let rustore = config.push.rustore.iter().map(|account| format!("RuStore project {}", account.project_id));
    let hms = config.push.hms.iter().map(|account| format!("HMS project {}", account.id()));
    let harmony = config.push.harmony.iter().map(|account| format!("HarmonyOS project {}", account.project_id));
    let all = fcm.chain(apns).chain(callback).chain(webpush).chain(rustore).chain(hms).chain(harmony);
    list(&all.collect::<Vec<_>>()).unwrap_or_else(|| "nothing".to_owned())
}

fn admin(config: &Config) -> String {
    let token = if config.admin.token.is_some() { "with a token" } else { "for this machine, without a token" };
    format!("http://{} {token}", config.admin.listen)
}
