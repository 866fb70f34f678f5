//! From the configuration to a pool: which server a (database, user) means, and within what caps.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::hub::Hub;
use crate::auth::Secret;
use crate::config::{self, Config, ServerHost};
use crate::net::{NameTtl, SocketOptions};
use crate::pool::PoolLimits;
use crate::server::pool_set::Caps;
use crate::server::pools::{PoolSettings, ServerPool};
use crate::server::{Endpoint, ServerRules, TimeLimits};

/// What a timeout of 0 comes to where one is needed: a day.
const NO_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The pool of (database, user), or `None` if there is no such database.
pub(super) fn pool(hub: &Hub, database: &str, user: &str) -> Option<Arc<ServerPool>> {
    loop {
        let config = hub.config.load_full();
        // With a forced user all clients share one pool, under that user's name.
        let pool_user = config.pool_user(database, user)?;
        // One that is there follows every reload by itself.
        if let Some(pool) = hub.pools.find(database, pool_user) {
            return Some(pool);
        }
        let route = config.pool_settings(database, user)?;
        let pool = hub.pools.pool(database, pool_user, || resolve(&config, &route));
        // A reload puts its configuration in force before it goes over the pools: it has either
        // met this one, or is seen here.
        let mut applied = config;
        if Arc::ptr_eq(&applied, &hub.config.load()) {
            return Some(pool);
        }
        while !Arc::ptr_eq(&applied, &hub.config.load()) {
            applied = hub.config.load_full();
            adapt(hub, &applied, &pool);
        }
    }
}

/// Puts a new configuration in force. Pools whose database is gone are closed; their clients are
/// told at their next request.
pub fn reload(hub: &Hub, config: Arc<Config>) {
    hub.config.store(config.clone());
    for pool in hub.pools.all() {
        adapt(hub, &config, &pool);
    }
}

fn adapt(hub: &Hub, config: &Config, pool: &ServerPool) {
    match config.pool_settings(&pool.database, &pool.user) {
        Some(route) => {
            let (settings, caps) = resolve(config, &route);
            hub.pools.set_caps(&pool.database, &pool.user, caps);
            pool.reconfigure(settings);
        }
        None => hub.pools.remove(pool),
    }
}

fn resolve(config: &Config, route: &config::PoolSettings) -> (PoolSettings, Caps) {
    let general = &config.general;
    let limits = PoolLimits {
        size: route.pool_size.get().unwrap_or(0),
        connecting_max: general.max_connecting_per_pool,
        waiters_max: general.max_waiting_clients.get().unwrap_or(0),
        wait_timeout: route.query_wait_timeout,
        reserve: route.reserve_pool_size,
        reserve_after: general.reserve_pool_timeout,
        server_round_robin: general.server_round_robin,
        ..PoolLimits::default()
    };
    let settings = PoolSettings {
        mode: route.pool_mode,
        limits,
        reset_query: (general.server_reset_query_always && !general.server_reset_query.is_empty())
            .then(|| Arc::from(general.server_reset_query.as_str())),
        statements_max: NonZeroUsize::new(general.max_prepared_statements),
        statement_bytes_max: general.max_prepared_statement_bytes,
        time_limits: TimeLimits {
            idle: route.client_idle_timeout,
            idle_transaction: route.idle_transaction_timeout,
            transaction: route.transaction_timeout,
            query: route.query_timeout,
        },
        servers: server_rules(config, route),
        endpoints: route.host.each().iter().map(|host| endpoint(host, route.port)).collect(),
        connecting_max: general.max_connecting_per_server,
        load_balance: route.load_balance_hosts,
        name_ttl: name_ttl(config),
        dbname: route.dbname.clone(),
        server_settings: route
            .server_settings
            .iter()
            .map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()))
            .collect(),
        server_user: route.server_user.clone(),
        server_secret: route.server_password.as_ref().map(secret),
        connect_timeout: general.server_connect_timeout.unwrap_or(NO_TIMEOUT),
        login_retry: general.server_login_retry,
        socket_options: socket_options(config),
        tls: config.tls.servers.clone(),
    };
    let caps = Caps {
        database: route.max_db_connections.get().unwrap_or(0),
        user: route.max_user_connections.get().unwrap_or(0),
    };
    (settings, caps)
}

fn server_rules(config: &Config, route: &config::PoolSettings) -> ServerRules {
    let general = &config.general;
    let query = match general.server_check_query.trim() {
        "<empty>" => Some(""),
        "" => None,
        query => Some(query),
    };
    ServerRules {
        min: route.min_pool_size,
        stands: route.is_forced_user,
        lifetime: route.server_lifetime,
        idle_timeout: general.server_idle_timeout,
        check: query.map(|query| (Arc::from(query), general.server_check_delay)),
        connect_query: route.connect_query.as_deref().map(Arc::from),
        forget_after: route.forget_after,
        logs_ends: general.log_disconnections,
    }
}

fn endpoint(host: &ServerHost, port: u16) -> Endpoint {
    match host {
        ServerHost::Ip(ip) => Endpoint::Tcp { host: ip.to_string(), port },
        ServerHost::Name(host) => Endpoint::Tcp { host: host.clone(), port },
        ServerHost::SocketDir(dir) => Endpoint::Unix(dir.join(format!(".s.PGSQL.{port}"))),
        ServerHost::Several(_) => unreachable!("BUG: several hosts were not told apart"),
    }
}

/// How long the meaning of names is remembered.
pub(super) fn name_ttl(config: &Config) -> NameTtl {
    NameTtl { found: config.general.dns_max_ttl, missing: config.general.dns_nxdomain_ttl }
}

/// A configured password as the authentication exchanges use it.
pub(super) fn secret(password: &config::Password) -> Secret {
    Secret::parse(password.expose().as_bytes())
}

/// TCP options by this configuration.
pub(super) fn socket_options(config: &Config) -> SocketOptions {
    let general = &config.general;
    SocketOptions {
        keepalive: general.tcp_keepalive,
        keepalive_idle: general.tcp_keepidle,
        keepalive_interval: general.tcp_keepintvl,
        keepalive_count: general.tcp_keepcnt,
        user_timeout: general.tcp_user_timeout,
        buffer_bytes: general.tcp_socket_buffer,
    }
}
