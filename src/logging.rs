//! The log, to standard error: `[log]` of the configuration turned into a subscriber that can be turned again later.

use std::sync::OnceLock;

use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Log, LogFormat};

type Output = Box<dyn Layer<Registry> + Send + Sync>;
type Filter = Handle<EnvFilter, Layered<reload::Layer<Output, Registry>, Registry>>;

/// The one subscriber of the process. Filter and output are layers of their own, because a layer with a filter of
/// its own cannot be exchanged while it is in use.
static STARTED: OnceLock<(Filter, Handle<Output, Registry>)> = OnceLock::new();

/// Why the log cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("log.level {0:?} is not a filter")]
    Level(String),
    #[error("a log has been started in this process already")]
    Started,
    #[error("the log has not been started")]
    NotStarted,
}

/// Starts the log; once in a process.
pub fn start(log: &Log) -> Result<(), LogError> {
    let (output, output_handle) = reload::Layer::new(output(log));
    let (filter, filter_handle) = reload::Layer::new(filter(&log.level)?);
    tracing_subscriber::registry().with(output).with(filter).try_init().map_err(|_| LogError::Started)?;
    STARTED.set((filter_handle, output_handle)).map_err(|_| LogError::Started)
}

/// Changes level and format of the started log.
pub fn reload(log: &Log) -> Result<(), LogError> {
    let new_filter = filter(&log.level)?;
    let (filter, format) = STARTED.get().ok_or(LogError::NotStarted)?;
    let changed = filter.reload(new_filter).and_then(|()| format.reload(output(log)));
    changed.map_err(|_| LogError::NotStarted)
}

/// Changes the level alone, until the next [`reload`].
pub fn set_level(level: &str) -> Result<(), LogError> {
    let (handle, _) = STARTED.get().ok_or(LogError::NotStarted)?;
    handle.reload(filter(level)?).map_err(|_| LogError::NotStarted)
}

/// A plain level is ours; the libraries beneath speak up only when something is wrong. Directives are taken as they are.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let directives = match level.parse::<tracing::Level>() {
        Ok(level) => format!("warn,{}={level}", env!("CARGO_CRATE_NAME")),
        Err(_) => level.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|_| LogError::Level(level.to_owned()))
}

fn output(log: &Log) -> Output {
    let layer = fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        // Spans that were opened under the other format cannot be written in this one.
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_and_format_change_while_it_runs() {
        let log = |level: &str, format| Log { level: level.to_owned(), format };
        assert_eq!(reload(&log("info", LogFormat::Text)), Err(LogError::NotStarted));
        start(&log("off", LogFormat::Text)).unwrap();
        assert!(!tracing::enabled!(tracing::Level::ERROR));
        reload(&log("off,sip_push_proxy::logging=debug", LogFormat::Json)).unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        set_level("off").unwrap();
        assert!(!tracing::enabled!(tracing::Level::ERROR));
        // What fail2ban reads is there at each level.
        set_level("error").unwrap();
        assert!(tracing::enabled!(target: "security", tracing::Level::WARN));
        set_level("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        reload(&log("off", LogFormat::Text)).unwrap();
        assert!(!tracing::enabled!(tracing::Level::ERROR));
        assert_eq!(start(&log("off", LogFormat::Text)), Err(LogError::Started));
    }
}
