//! `store.url` of a Redis (or Valkey): `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]` and its relatives.

use std::fmt;

use super::address::{Host, host_port};

/// Where the Redis is, and how to enter.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    pub shape: RedisShape,
    /// TLS with the certificates that the system trusts; from `rediss`.
    pub tls: bool,
    /// One server, the Sentinels, or some nodes of the Cluster. Never empty.
    pub servers: Vec<(String, u16)>,
    pub user: Option<Box<str>>,
    /// Not for logs.
    pub password: Option<Box<str>>,
    pub database: i64,
}

/// What stands behind the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisShape {
    Server,
    /// The servers are Sentinels, which know where this master is.
    Sentinel {
        master: Box<str>,
    },
    Cluster,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Redis {
    /// `None`: not the URL of a Redis. The error never repeats the URL, which may carry a password.
    pub fn parse(url: &str) -> Option<Result<Self, &'static str>> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, shape) = match scheme {
            "redis" => (false, RedisShape::Server),
            "rediss" => (true, RedisShape::Server),
            "redis+sentinel" => (false, RedisShape::Sentinel { master: "".into() }),
            "rediss+sentinel" => (true, RedisShape::Sentinel { master: "".into() }),
            "redis+cluster" => (false, RedisShape::Cluster),
            "rediss+cluster" => (true, RedisShape::Cluster),
            _ => return None,
        };
        Some(Self::read(tls, shape, rest))
    }

    fn read(tls: bool, mut shape: RedisShape, rest: &str) -> Result<Self, &'static str> {
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let (entry, servers) = authority.rsplit_once('@').map_or((None, authority), |(entry, at)| (Some(entry), at));
        let (user, password) = match entry.map(|entry| entry.split_once(':').unwrap_or((entry, ""))) {
            None => (None, None),
            Some((user, password)) => (unescape(user)?, unescape(password)?),
        };
        let port = if matches!(shape, RedisShape::Sentinel { .. }) { SENTINEL_PORT } else { REDIS_PORT };
        let servers: Vec<_> = servers.split(',').map(|text| server(text, port)).collect::<Result<_, _>>()?;
        let database = match &mut shape {
            RedisShape::Server => path,
            RedisShape::Cluster if path.is_empty() || path == "0" => "",
            RedisShape::Cluster => return Err("names a database; a Cluster has none but 0"),
            RedisShape::Sentinel { master } => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                *master = name.into();
                database
            }
        };
        match &shape {
            RedisShape::Server if servers.len() > 1 => {
                Err("names several servers; that is for redis+sentinel:// and redis+cluster://")
            }
            RedisShape::Sentinel { master } if master.is_empty() => {
                Err("does not name the master; write redis+sentinel://HOST,HOST/MASTER")
            }
            RedisShape::Server | RedisShape::Sentinel { .. } | RedisShape::Cluster => {
                let number = if database.is_empty() { Ok(0) } else { database.parse::<u16>() };
                let database = number.map_err(|_| "does not end in the number of a database, such as /0")?.into();
                Ok(Self { shape, tls, servers, user, password, database })
            }
        }
    }
}

fn server(text: &str, port: u16) -> Result<(String, u16), &'static str> {
    let address =
        host_port(text).map_err(|_| "has no HOST or HOST:PORT in its place, such as redis://192.0.2.1:6379")?;
    // Brackets are for URLs; whoever connects wants the bare address.
    let host = match address.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.into(),
    };
    Ok((host, address.port.unwrap_or(port)))
}

/// `%40` and the like (RFC 3986 §2.1); nothing for an empty text.
fn unescape(text: &str) -> Result<Option<Box<str>>, &'static str> {
    const WRONG: &str = "has a % in user or password that is not followed by two hexadecimal digits (% itself is %25)";
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(WRONG)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

impl fmt::Display for Redis {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = match &self.shape {
            RedisShape::Server => "",
            RedisShape::Sentinel { .. } => "+sentinel",
            RedisShape::Cluster => "+cluster",
        };
        write!(f, "redis{}{shape}://", if self.tls { "s" } else { "" })?;
        for (place, (host, port)) in self.servers.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{host}{close}:{port}")?;
        }
        if let RedisShape::Sentinel { master } = &self.shape {
            write!(f, "/{master}")?;
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_each_shape() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("rediss://alice:s%40c@192.0.2.1:7000/3", "rediss://192.0.2.1:7000/3"),
            ("redis://[::1]:7000/0", "redis://[::1]:7000"),
            (
                "redis+sentinel://:secret@a.example,b.example:7/main/2",
                "redis+sentinel://a.example:26379,b.example:7/main/2",
            ),
            ("redis+cluster://a.example:1,b.example:2", "redis+cluster://a.example:1,b.example:2"),
        ] {
            let redis = Redis::parse(url).unwrap().unwrap();
            assert_eq!(redis.to_string(), shown);
            assert!(!format!("{redis:?}").contains("s@c") && !format!("{redis:?}").contains("secret"));
        }
    }

    #[test]
    fn user_and_password_are_unescaped() {
        let redis = Redis::parse("redis://alice:s%40c%25@localhost").unwrap().unwrap();
        assert_eq!((redis.user.as_deref(), redis.password.as_deref()), (Some("alice"), Some("s@c%")));
        let redis = Redis::parse("redis://:secret@localhost").unwrap().unwrap();
        assert_eq!((redis.user.as_deref(), redis.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn wrong_urls() {
        assert!(Redis::parse("mysql://localhost").is_none());
        assert!(Redis::parse("file:").is_none());
        for url in [
            "redis://",
            "redis://a,b",
            "redis://a/x",
            "redis://a/-1",
            "redis://a:0",
            "redis://:%4@a",
            "redis+sentinel://a",
            "redis+cluster://a/1",
        ] {
            assert!(Redis::parse(url).unwrap().is_err(), "{url}");
        }
    }
}
