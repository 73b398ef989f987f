//! Commands that ask the running server's admin listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde_json::{Value, json};

use super::{COULD_NOT, Command, complain, present_file, print, tables, tune, variables, why, wrong};
use crate::config::{Admin, Problems};

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// As many calls as the server remembers.
const CALLS_MAX: usize = 10_000;
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("cannot ask the server: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("{url} does not answer ({source}); is `sip-push-proxy serve` running with this configuration?")]
    Unreachable { url: Url, source: reqwest::Error },
    #[error("{url} does not speak as the admin listener: {what}")]
    Strange { url: Url, what: String },
    #[error("{0}")]
    Refused(String),
    /// It was tried, and this came of it.
    #[error("{0}")]
    Failed(String),
}

/// Runs one of the operator's commands; anything else is nothing to do.
pub fn ask(file: Option<&Path>, command: &Command) -> ExitCode {
    let admin = match load(file) {
        Ok(admin) => admin,
        Err(problems) => return wrong(file, &problems),
    };
    match answer(admin, command) {
        Ok(text) => {
            print(text);
            ExitCode::SUCCESS
        }
        Err(AskError::Failed(text)) => {
            print(text);
            ExitCode::from(COULD_NOT)
        }
        Err(error) => {
            complain(error);
            ExitCode::from(COULD_NOT)
        }
    }
}

/// Only `[admin]`, so that the operator's account need not be able to read keys and users.
fn load(file: Option<&Path>) -> Result<Admin, Problems> {
    Admin::load_with(present_file(file), variables())
}

fn answer(admin: Admin, command: &Command) -> Result<String, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::new(admin)?;
        match command {
            Command::Bans { remove: Some(source), json } => {
                let answer = server.send(Method::DELETE, &["bans", source], &[]).await?;
                Ok(if *json { pretty(&answer) } else { format!("{source} is let in again\n") })
            }
            Command::Bans { remove: None, json } => {
                let answer = server.send(Method::GET, &["bans"], &[]).await?;
                Ok(if *json { pretty(&answer) } else { tables::bans(&answer) })
            }
            Command::Bindings { aor: Some(aor), remove: Some(id), json } => {
                let answer = server.send(Method::DELETE, &["bindings", aor, id], &[]).await?;
                Ok(if *json { pretty(&answer) } else { format!("{id} is removed\n") })
            }
            Command::Bindings { aor, remove: _, json } => {
                let answer = server.bindings(aor.as_deref()).await?;
                Ok(if *json { pretty(&answer) } else { tables::bindings(&answer) })
            }
            Command::Calls { call_ref: Some(call_ref), json } => {
                let answer = server.send(Method::GET, &["calls", call_ref], &[]).await?;
                Ok(if *json { pretty(&answer) } else { tables::call(&answer) })
            }
            Command::Calls { call_ref: None, json } => {
                let answer = server.send(Method::GET, &["calls"], &[]).await?;
                Ok(if *json { pretty(&answer) } else { tables::calls(&answer) })
            }
            Command::Bucket { aor, json } => {
                let answer = server.send(Method::GET, &["buckets", aor], &[]).await?;
                Ok(if *json { pretty(&answer) } else { tables::bucket(&answer) })
            }
            Command::Why { what, json } => {
                let answer = server.why(what).await?;
                Ok(if *json { pretty(&answer) } else { why::tell(&answer) })
            }
            Command::Push { aor, dry_run, json } => {
                let answer = server.post(&["push"], &json!({ "aor": aor, "dry_run": dry_run })).await?;
                let text = if *json { pretty(&answer) } else { tables::pushes(&answer, *dry_run) };
                if *dry_run || tables::all_accepted(&answer) { Ok(text) } else { Err(AskError::Failed(text)) }
            }
            Command::Health { ready, json } => {
                let (status, answer) = server.health(if *ready { "readyz" } else { "healthz" }).await?;
                let text = if *json { pretty(&answer) } else { tables::health(&answer) };
                if status.is_success() { Ok(text) } else { Err(AskError::Failed(text)) }
            }
            Command::Reload { json } => {
                let answer = server.post(&["reload"], &json!({})).await?;
                Ok(if *json { pretty(&answer) } else { tables::changes(&answer) })
            }
            Command::Settings { json } => {
                let answer = server.send(Method::GET, &["config"], &[]).await?;
                Ok(if *json { pretty(&answer) } else { tables::config(&answer) })
            }
            Command::Tune => {
                let calls = server.send(Method::GET, &["calls"], &[("limit", CALLS_MAX.to_string())]).await?;
                Ok(tune::tell(&calls, &server.send(Method::GET, &["config"], &[]).await?))
            }
            Command::Log { level } => {
                let request = server.client.put(server.url(&["log"], &[])).json(&json!({ "level": level }));
                server.ask(request).await?;
                Ok(format!("the log's level is {level} until the next reload\n"))
            }
            Command::Serve
            | Command::Check { .. }
            | Command::Demo
            | Command::Completions { .. }
            | Command::Man { .. } => Ok(String::new()),
        }
    })
}

fn pretty(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// The admin listener as its client sees it.
struct Server {
    client: Client,
    admin: Admin,
}

impl Server {
    fn new(admin: Admin) -> Result<Self, AskError> {
        // A second installation is no fault: the provider is then there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| AskError::Strange { url: base(&admin), what: error.to_string() })?;
        Ok(Self { client, admin })
    }

    /// All bindings, however many pages they take.
    async fn bindings(&self, aor: Option<&str>) -> Result<Value, AskError> {
        let mut all = Vec::new();
        let mut query: Vec<(&str, String)> = aor.iter().map(|aor| ("aor", (*aor).to_owned())).collect();
        loop {
            let mut answer = self.send(Method::GET, &["bindings"], &query).await?;
            if let Some(Value::Array(page)) = answer.get_mut("bindings").map(Value::take) {
                all.extend(page);
            }
            match answer.get("next").and_then(Value::as_str) {
                Some(next) => query = vec![("after", next.to_owned())],
                None => return Ok(json!({ "bindings": all })),
            }
        }
    }

    /// The call of this reference, if there is one; else all that is known of the user of this name.
    /// And what ails the server itself.
    async fn why(&self, what: &str) -> Result<Value, AskError> {
        let mut answer = match self.send(Method::GET, &["calls", what], &[]).await {
            Err(AskError::Refused(_)) if what.contains('@') => {
                let query = [("aor", what.to_owned()), ("limit", why::CALLS.to_string())];
                let bindings = self.bindings(Some(what)).await?;
                let calls = self.send(Method::GET, &["calls"], &query).await?;
                json!({ "aor": what, "bindings": bindings["bindings"], "calls": calls["calls"] })
            }
            answer => answer?,
        };
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("server".to_owned(), self.health("readyz").await?.1);
        }
        Ok(answer)
    }

    /// What `/healthz` or `/readyz` says, whatever its status.
    async fn health(&self, path: &str) -> Result<(StatusCode, Value), AskError> {
        let mut url = base(&self.admin);
        url.set_path(path);
        self.exchange(self.client.get(url)).await
    }

    async fn send(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> Result<Value, AskError> {
        self.ask(self.client.request(method, self.url(path, query))).await
    }

    async fn post(&self, path: &[&str], body: &Value) -> Result<Value, AskError> {
        // Providers may take their time, one device after the other.
        self.ask(self.client.post(self.url(path, &[])).json(body).timeout(PUSH_TIMEOUT)).await
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = base(&self.admin);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, AskError> {
        let (status, answer) = self.exchange(request).await?;
        if status.is_success() { Ok(answer) } else { Err(self.strange(format!("it answers {status}"))) }
    }

    fn strange(&self, what: String) -> AskError {
        AskError::Strange { url: base(&self.admin), what }
    }

    /// Any answer in JSON but an error.
    async fn exchange(&self, mut request: RequestBuilder) -> Result<(StatusCode, Value), AskError> {
        if let Some(token) = &self.admin.token {
            request = request.bearer_auth(token.reveal());
        }
        let unreachable =
            |source: reqwest::Error| AskError::Unreachable { url: base(&self.admin), source: source.without_url() };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        let answer: Value =
            serde_json::from_slice(&body).map_err(|_| self.strange(format!("it answers {status} without JSON")))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(AskError::Refused(error.to_owned())),
            None => Ok((status, answer)),
        }
    }
}

/// Where the listener is reached from this machine: a wildcard is no address to go to.
fn base(admin: &Admin) -> Url {
    let ip = match admin.listen.ip() {
        IpAddr::V4(ip) => IpAddr::V4(if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }),
        IpAddr::V6(ip) => IpAddr::V6(if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }),
    };
    let address = SocketAddr::new(ip, admin.listen.port());
    #[expect(clippy::unwrap_used, reason = "a socket address is always a good authority of a URL")]
    Url::parse(&format!("http://{address}/")).unwrap()
}
