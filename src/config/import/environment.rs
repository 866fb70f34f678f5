//! The variables by which the usual PgBouncer images are configured, as if a file had said it.
//!
//! Two families: settings in capitals with `DB_*` or `DATABASE_URL` for the server, and `PGBOUNCER_*` with
//! `POSTGRESQL_*` for the server.

use super::super::env::percent_decode;
use super::super::keys::Section;
use super::super::pgbouncer::settings;
use super::ini::Ini;

/// Reads variables. `get` looks one up; empty ones count as unset.
#[must_use]
pub fn from_environment(get: &dyn Fn(&str) -> Option<String>) -> Ini {
    let mut ini = Ini::named("the environment");
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let either = |names: &[&str]| names.iter().find_map(|name| get(name));
    for setting in settings().filter(|setting| setting.section == Section::General) {
        let name = setting.name.to_ascii_uppercase();
        // `USER` and the like are everybody's.
        let is_common =
            matches!(setting.name, "user" | "logfile" | "pidfile" | "syslog" | "conffile");
        let plain = if is_common { None } else { get(&name) };
        if let Some(value) = get(&format!("PGBOUNCER_{name}")).or(plain) {
            ini.set("pgbouncer", setting.name, &value);
        }
    }
    if let Some(port) = get("PGBOUNCER_PORT") {
        ini.set("pgbouncer", "listen_port", &port);
    }
    if ini.section("pgbouncer").iter().all(|(key, _)| key != "listen_addr") {
        // Containers are reached from outside.
        ini.set("pgbouncer", "listen_addr", "*");
    }
    let mut server = Server {
        host: either(&["DB_HOST", "POSTGRESQL_HOST"]),
        port: either(&["DB_PORT", "POSTGRESQL_PORT"]),
        user: either(&["DB_USER", "POSTGRESQL_USERNAME"]),
        password: either(&["DB_PASSWORD", "POSTGRESQL_PASSWORD"]),
        dbname: either(&["DB_NAME", "POSTGRESQL_DATABASE"]),
    };
    if let Some(url) = get("DATABASE_URL") {
        server.take_url(&url);
    }
    if server.host.is_some() {
        let name = get("PGBOUNCER_DATABASE").or_else(|| server.dbname.clone());
        ini.set("databases", name.as_deref().unwrap_or("*"), &server.connection_string());
    }
    for number in 0.. {
        // `name=host=... port=...`
        let Some(line) = get(&format!("PGBOUNCER_DSN_{number}")) else { break };
        if let Some((name, text)) = line.split_once('=') {
            ini.set("databases", name.trim(), text.trim());
        }
    }
    if let (Some(user), Some(password)) = (&server.user, &server.password) {
        ini.secrets.push((user.clone(), password.clone()));
    }
    // `"user" "secret"` pairs, as in a file of users.
    if let Some(list) = get("PGBOUNCER_USERLIST") {
        let words: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        for pair in words.chunks_exact(2) {
            ini.secrets.retain(|(user, _)| user != pair[0]);
            ini.secrets.push((pair[0].to_owned(), pair[1].to_owned()));
        }
    }
    ini
}

#[derive(Default)]
struct Server {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
}

impl Server {
    /// `postgres://user:password@host:port/dbname`, as the images take it apart.
    fn take_url(&mut self, url: &str) {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
        let dbname = path.split('?').next().unwrap_or_default();
        let set = |field: &mut Option<String>, value: &str| {
            if !value.is_empty() {
                // As it stands, if it only looks encoded.
                let decoded = percent_decode(value).map(|text| text.as_str().to_owned());
                *field = Some(decoded.unwrap_or_else(|_| value.to_owned()));
            }
        };
        set(&mut self.user, user);
        set(&mut self.password, password);
        set(&mut self.host, host);
        set(&mut self.port, port);
        set(&mut self.dbname, dbname);
    }

    fn connection_string(&self) -> String {
        let pairs = [("host", &self.host), ("port", &self.port), ("dbname", &self.dbname)];
        let pairs = pairs.into_iter().filter_map(|(key, value)| {
            Some(format!("{key}='{}'", value.as_ref()?.replace('\'', "''")))
        });
        pairs.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::convert;
    use super::*;

    fn config(variables: &[(&str, &str)]) -> super::super::super::Config {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
        };
        let imported = convert(&from_environment(&get));
        let parsed = super::super::super::parse(&imported.toml, "config.toml", &|_| None);
        parsed.unwrap_or_else(|e| panic!("{e}\n{}", imported.toml)).config.as_ref().clone()
    }

    #[test]
    fn one_family() {
        let config = config(&[
            ("DATABASE_URL", "postgres://bob:p%40ss@db:5433/app?x=y"),
            ("POOL_MODE", "transaction"),
            ("MAX_CLIENT_CONN", "1000"),
            ("AUTH_TYPE", "scram-sha-256"),
            ("USER", "root"),
        ]);
        assert_eq!(config.general.max_client_conn, 1000);
        assert!(config.general.user.is_none() && !config.general.listen_addr.is_empty());
        let app = &config.databases.named["app"];
        assert_eq!((app.port, app.dbname.as_deref()), (5433, Some("app")));
        assert_eq!(config.users.password("bob").unwrap().expose(), "p@ss");
    }

    #[test]
    fn the_other_family() {
        let config = config(&[
            ("POSTGRESQL_HOST", "db"),
            ("POSTGRESQL_USERNAME", "postgres"),
            ("POSTGRESQL_PASSWORD", "it's"),
            ("POSTGRESQL_DATABASE", "app"),
            ("PGBOUNCER_DATABASE", "*"),
            ("PGBOUNCER_PORT", "7000"),
            ("PGBOUNCER_POOL_MODE", "session"),
            ("PGBOUNCER_DEFAULT_POOL_SIZE", "9"),
            ("PGBOUNCER_DSN_0", "more=host=other port=1"),
            ("PGBOUNCER_USERLIST", "\"ann\" \"a\"\n\"postgres\" \"b\""),
        ]);
        assert_eq!(config.general.listen_port, 7000);
        assert_eq!(config.general.default_pool_size.get(), Some(9));
        assert!(config.databases.fallback.is_some());
        assert_eq!(config.databases.named["more"].port, 1);
        assert_eq!(config.users.password("postgres").unwrap().expose(), "b");
        assert_eq!(config.users.password("ann").unwrap().expose(), "a");
    }
}
