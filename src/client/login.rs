//! A client's login: its first packets, who it is, and what it is greeted with.
//!
//! A cold path, boxed, under one deadline. Dropping it at any await drops the connection; a server
//! borrowed for the login goes back to its pool or is closed. What few logins need is boxed once more:
//! the future of the others, which is moved around and lives for a moment, stays small.

use std::sync::Arc;

use super::cancel;
use super::consoles::ConsoleSeat;
use super::dedicated::{Dedicated, Flow};
use super::end::LoginError;
use super::hub::{ClientPlace, Hub, Registration, Worker, WorkerPlace};
use super::routes;
use super::session::{Link, PoolClient, Session};
use crate::config::{ClientTls, Config, PoolMode};
use crate::net::{Ends, TlsKind, Transport};
use crate::protocol::TransactionStatus;
use crate::protocol::encode::{self, EncodeError};
use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::{self, Initial, Parameter, Replication, Startup};
use crate::server::framed::{Framed, ReadError};
use crate::server::pools::ServerPool;
use crate::server::{Greeting, ServerLease, Settings};
use authenticate::Asked;

mod authenticate;
mod borrow;
mod exchange;
mod proxied;
mod secrets;

/// SSLRequest and GSSENCRequest messages answered before a client has to get on with it.
const NEGOTIATIONS_MAX: usize = 2;
/// The console's database, and the name that PgBouncer's tools use.
const CONSOLE_DATABASES: [&str; 2] = ["pgbaton", "pgbouncer"];

/// What a login leads to.
#[derive(Debug)]
pub enum LoggedIn {
    /// A session with a pool.
    Session(Box<Session>),
    /// A replication connection with a server of its own.
    Dedicated(Box<Dedicated>, WorkerPlace),
    /// The console.
    Console(ConsoleClient, WorkerPlace),
}

/// A console connection that has been authenticated; nothing has been sent after that.
#[derive(Debug)]
pub struct ConsoleClient {
    /// Its socket.
    pub framed: Framed,
    /// Who it is.
    pub user: String,
    /// Whether it may do more than look.
    pub is_admin: bool,
    /// Its place in the table of consoles.
    pub seat: ConsoleSeat,
}

/// A login that has succeeded but for its connection being handed over.
#[derive(Debug)]
pub enum Ready {
    /// To a session.
    Session(Box<SessionParts>),
    /// To a relay to a server of its own.
    Dedicated(Box<DedicatedParts>),
    /// To the console.
    Console {
        /// Who it is.
        user: String,
        /// Whether it may do more than look.
        is_admin: bool,
        /// Its place in the table of consoles.
        seat: ConsoleSeat,
    },
}

/// What a session is made of, beside its socket.
#[derive(Debug)]
pub struct SessionParts {
    place: ClientPlace,
    registration: Registration,
    pool: Arc<ServerPool>,
    mode: PoolMode,
    settings: Arc<Settings>,
}

/// What a replication connection is made of, beside its socket.
#[derive(Debug)]
pub struct DedicatedParts {
    place: ClientPlace,
    hub: Arc<Hub>,
    registration: Registration,
    pool: Arc<ServerPool>,
    lease: ServerLease,
}

impl Ready {
    /// Hands the connection over.
    #[must_use]
    pub fn start(self, framed: Framed, worker: WorkerPlace) -> LoggedIn {
        match self {
            Self::Console { user, is_admin, seat } => {
                LoggedIn::Console(ConsoleClient { framed, user, is_admin, seat }, worker)
            }
            Self::Dedicated(parts) => {
                let dedicated = Dedicated {
                    transport: framed.transport,
                    _place: parts.place,
                    registration: parts.registration,
                    hub: parts.hub,
                    _pool: PoolClient::new(parts.pool),
                    lease: parts.lease,
                    to_server: Flow::beginning_with(framed.buffer),
                    to_client: Flow::beginning_with(Vec::new()),
                };
                LoggedIn::Dedicated(Box::new(dedicated), worker)
            }
            Self::Session(parts) => LoggedIn::Session(Box::new(Session {
                transport: framed.transport,
                place: parts.place,
                registration: parts.registration,
                worker,
                pool: PoolClient::new(parts.pool),
                mode: parts.mode,
                link: Link::Unlinked,
                carry_is_unread: !framed.buffer.is_empty(),
                // An empty one may have room all the same, which an idle client has no use for.
                carry: if framed.buffer.is_empty() { Vec::new() } else { framed.buffer },
                unsent: Vec::new(),
                streaming_left: 0,
                stray_left: 0,
                skips_to_sync: false,
                startup_settings: parts.settings.clone(),
                settings: parts.settings,
                names: None,
                stalled: false,
                replaying: false,
                resetting: false,
                cut_off: false,
                terminated: false,
            })),
        }
    }
}

/// Sees a connection through its login.
///
/// # Errors
/// [`LoginError`], which says what the client is to be told.
pub async fn login(
    hub: &Arc<Hub>,
    worker: &Arc<Worker>,
    ends: Ends,
    framed: &mut Framed,
) -> Result<Ready, LoginError> {
    let has_balancers = !hub.config.load().general.proxy_protocol_from.is_empty();
    let ends = match has_balancers {
        true => Box::pin(proxied::ends(&hub.config.load_full(), ends, framed)).await?,
        false => ends,
    };
    let (startup, tls) = read_startup(hub, framed).await?;
    if startup.needs_negotiation() {
        framed.send(&negotiation(&startup)?).await?;
    }
    let user = text(&startup.user, "user")?;
    let database = text(&startup.database, "database")?;
    let config = hub.config.load_full();
    let asked = Asked {
        user: &user,
        database: &database,
        is_console: CONSOLE_DATABASES.contains(&database.as_str()),
        is_physical_replication: startup.replication == Some(Replication::Physical),
        peer: ends.peer,
        tls: tls.as_ref(),
    };
    if asked.is_console {
        let minor = startup.negotiated_minor();
        return Box::pin(console(hub, &config, framed, asked, minor)).await;
    }
    let mut place = admit(hub, &config)?;
    let pool = enter(hub, &config, framed, asked).await?;
    place
        .sit(&config, &database, &user)
        .map_err(|full| LoginError::refused(SqlState::TOO_MANY_CONNECTIONS, full.to_string()))?;
    let minor = startup.negotiated_minor();
    let hub = hub.clone();
    let connection = (ends, framed.transport.tls());
    let ready = if startup.replication.is_some() {
        let parameters = verbatim_parameters(&config, &startup);
        let dedicated = Box::pin(borrow::dedicated(&pool, worker, &parameters));
        let (lease, greeting) = dedicated.await?;
        let settings = Settings::default();
        let registration = register(&hub, worker, &pool, connection, Arc::default(), minor)?;
        framed.send(&welcome(&greeting, &settings, &registration, "")?).await?;
        Ready::Dedicated(Box::new(DedicatedParts { place, hub, registration, pool, lease }))
    } else {
        let greeting = borrow::greeting(&pool, worker).await.inspect_err(|error| {
            // What was kept of a look-up let it in here, and the server knows better.
            if error.is_wrong_password() {
                hub.directory.forget(&user);
            }
        })?;
        let wanted = wanted_settings(&config, &startup, &ends)?;
        let settings = borrow::settings(&pool, worker, wanted).await?;
        let registration = register(&hub, worker, &pool, connection, settings.clone(), minor)?;
        let notice = &config.general.login_notify_message;
        framed.send(&welcome(&greeting, &settings, &registration, notice)?).await?;
        let mode = pool.settings.load().mode;
        Ready::Session(Box::new(SessionParts { place, registration, pool, mode, settings }))
    };
    if config.general.log_connections {
        let tls = framed.transport.tls().map_or_else(|| "no".to_owned(), |kind| kind.to_string());
        tracing::info!(client = %ends.peer, database, user, tls, "login attempt succeeded");
    }
    Ok(ready)
}

/// What of the protocol there is, for a client that asks for more.
fn negotiation(startup: &Startup) -> Result<Vec<u8>, LoginError> {
    let mut bytes = Vec::new();
    encode::negotiate_protocol_version(
        &mut bytes,
        startup.negotiated_minor(),
        &startup.unrecognised,
    )
    .map_err(|e| LoginError::refused(SqlState::PROTOCOL_VIOLATION, e.to_string()))?;
    Ok(bytes)
}

/// Sees to it that the client is who it says, and finds the pool that it asks for.
async fn enter(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
) -> Result<Arc<ServerPool>, LoginError> {
    let Asked { user, database, .. } = asked;
    let learnt = authenticate::authenticate(hub, config, framed, asked).await?;
    if hub.is_disabled(database) {
        return Err(LoginError::refused(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("database does not allow connections: {database}"),
        ));
    }
    let Some(pool) = routes::pool(hub, database, user) else {
        return Err(LoginError::refused(
            SqlState::INVALID_CATALOG_NAME,
            format!("database \"{database}\" does not exist"),
        ));
    };
    // What is known of a client's user says nothing of one that the database forces.
    if let Some(learnt) = learnt.filter(|_| *pool.user == *user) {
        pool.learn(learnt);
    }
    Ok(pool)
}

fn register(
    hub: &Hub,
    worker: &Arc<Worker>,
    pool: &Arc<ServerPool>,
    connection: (Ends, Option<TlsKind>),
    settings: Arc<Settings>,
    minor: u16,
) -> Result<Registration, LoginError> {
    hub.register(worker, pool, connection, settings, minor).ok_or_else(|| {
        LoginError::refused(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
    })
}

/// The parameters of a replication connection, which its server gets as they are.
fn verbatim_parameters(config: &Config, startup: &Startup) -> Vec<Parameter> {
    let ignored = &config.general.ignore_startup_parameters;
    let is_ignored = |name: &[u8]| ignored.iter().any(|i| i.as_bytes().eq_ignore_ascii_case(name));
    let kind = startup.replication.map(|kind| match kind {
        Replication::Physical => (Box::from(&b"replication"[..]), Box::from(&b"true"[..])),
        Replication::Database => (Box::from(&b"replication"[..]), Box::from(&b"database"[..])),
    });
    let options = startup.options_raw.clone().map(|raw| (Box::from(&b"options"[..]), raw));
    let further = startup.parameters.iter().cloned().chain(options);
    kind.into_iter().chain(further.filter(|(name, _)| !is_ignored(name))).collect()
}

/// A place for this client, if there is room.
fn admit(hub: &Arc<Hub>, config: &Config) -> Result<ClientPlace, LoginError> {
    hub.take_client_place(config.general.max_client_conn).ok_or_else(|| {
        LoginError::refused(
            SqlState::TOO_MANY_CONNECTIONS,
            "no more connections allowed (max_client_conn)",
        )
    })
}

/// The first byte of a TLS handshake, which begins no packet of PostgreSQL's.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads up to the StartupMessage, answering what may come before it. Gives what TLS was begun with:
/// a reload may have put another certificate in force since.
async fn read_startup(
    hub: &Hub,
    framed: &mut Framed,
) -> Result<(Startup, Option<ClientTls>), LoginError> {
    let (mut negotiations, mut tls) = (0, None);
    loop {
        let is_first = negotiations == 0 && framed.transport.tls().is_none();
        if is_first && framed.buffer.first() == Some(&TLS_HANDSHAKE) && may_encrypt(hub, framed) {
            tls = Some(Box::pin(encrypt(hub, framed, true)).await?);
            continue;
        }
        let Some((initial, consumed)) = startup::initial(&framed.buffer)? else {
            match framed.fill().await {
                Ok(()) => {}
                // A connection check: opened and closed without a word.
                Err(ReadError::Closed) if framed.buffer.is_empty() => {
                    return Err(LoginError::NoSession);
                }
                Err(e) => return Err(e.into()),
            }
            continue;
        };
        framed.buffer.drain(..consumed);
        match initial {
            Initial::Startup(_) if needs_encryption(hub, framed) => {
                return Err(LoginError::refused(SqlState::PROTOCOL_VIOLATION, "SSL required"));
            }
            Initial::Startup(startup) => return Ok((startup, tls)),
            Initial::Cancel { pid, secret } => {
                Box::pin(cancel::forward(hub, pid, &secret)).await;
                return Err(LoginError::NoSession);
            }
            Initial::Ssl | Initial::GssEnc => {
                negotiations += 1;
                if initial == Initial::Ssl && framed.transport.tls().is_some() {
                    return Err(LoginError::refused(
                        SqlState::PROTOCOL_VIOLATION,
                        "SSL req inside SSL",
                    ));
                }
                // Bytes behind the request were sent before the answer was known: whoever put
                // them there hopes that they are taken for encrypted ones.
                if !framed.buffer.is_empty() || negotiations > NEGOTIATIONS_MAX {
                    return Err(LoginError::refused(
                        SqlState::PROTOCOL_VIOLATION,
                        "received unencrypted data after SSL request",
                    ));
                }
                if initial == Initial::Ssl && may_encrypt(hub, framed) {
                    framed.send(b"S").await?;
                    tls = Some(Box::pin(encrypt(hub, framed, false)).await?);
                } else {
                    framed.send(b"N").await?;
                }
            }
        }
    }
}

/// Whether a client can have TLS: over TCP, if it is configured, and once.
fn may_encrypt(hub: &Hub, framed: &Framed) -> bool {
    matches!(framed.transport, Transport::Tcp(_)) && hub.config.load().tls.clients.is_some()
}

/// Whether a client may not go on as it is. Cancel requests may: libpq sends them in the clear.
fn needs_encryption(hub: &Hub, framed: &Framed) -> bool {
    let mode = hub.config.load().general.client_tls_sslmode;
    mode.insists() && matches!(framed.transport, Transport::Tcp(_))
}

/// Has the connection go on under TLS. `direct`: the client began with it.
///
/// What fails, or is dropped, takes the socket with it: nothing can be said in the clear any more.
async fn encrypt(hub: &Hub, framed: &mut Framed, direct: bool) -> Result<ClientTls, LoginError> {
    let Some(tls) = hub.config.load().tls.clients.clone() else {
        return Err(LoginError::NoSession);
    };
    let received = std::mem::take(&mut framed.buffer);
    let mut transport = std::mem::replace(&mut framed.transport, Transport::Closed);
    transport.accept_tls(&tls.config, received, direct).await?;
    framed.transport = transport;
    Ok(tls)
}

async fn console(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
    minor: u16,
) -> Result<Ready, LoginError> {
    let user = asked.user.to_owned();
    let is_owner = is_owner(framed, &user);
    let is_admin = is_owner || config.general.admin_users.contains(&user);
    if !is_admin && !config.general.stats_users.contains(&user) {
        return Err(LoginError::refused(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "not allowed",
        ));
    }
    if !is_owner {
        // What is learnt of a console's user serves no pool.
        drop(authenticate::authenticate(hub, config, framed, asked).await?);
    }
    let seat = hub.consoles.register(minor).ok_or_else(|| {
        LoginError::refused(SqlState::TOO_MANY_CONNECTIONS, "no more consoles allowed")
    })?;
    let mut bytes = Vec::new();
    encode::authentication_ok(&mut bytes);
    framed.send(&bytes).await?;
    Ok(Ready::Console { user, is_admin, seat })
}

/// Whether a console's client is the user that pgbaton runs as, which the system vouches for on a Unix
/// socket: it needs no password to say so, as with PgBouncer.
fn is_owner(framed: &Framed, user: &str) -> bool {
    let own = rustix::process::geteuid().as_raw();
    CONSOLE_DATABASES.contains(&user) && authenticate::peer_uid(framed) == Some(own)
}

/// The settings that a StartupMessage asks for, those left out that are configured to be ignored.
fn wanted_settings(
    config: &Config,
    startup: &Startup,
    ends: &Ends,
) -> Result<Arc<Settings>, LoginError> {
    let ignored = &config.general.ignore_startup_parameters;
    let mut pairs: Vec<(String, &[u8])> = Vec::new();
    for (name, value) in startup.parameters.iter().chain(&startup.options) {
        let name = text(name, "parameter name")?;
        if !ignored.iter().any(|i| i.eq_ignore_ascii_case(&name)) {
            pairs.push((name, value));
        }
    }
    let settings = Settings::new(pairs.iter().map(|(n, v)| (n.as_str(), *v)));
    if !config.general.application_name_add_host {
        return Ok(settings);
    }
    let own = settings.value("application_name").filter(|name| !name.is_empty());
    let host = format!(" - {}", ends.peer);
    let name = [own.unwrap_or(b"app"), host.as_bytes()].concat();
    Ok(settings.with("application_name", Some(&name)))
}

/// Everything from AuthenticationOk to ReadyForQuery.
fn welcome(
    greeting: &Greeting,
    settings: &Settings,
    registration: &Registration,
    notice: &str,
) -> Result<Vec<u8>, LoginError> {
    let internal = |e: EncodeError| LoginError::refused(SqlState::INTERNAL_ERROR, e.to_string());
    let mut bytes = Vec::with_capacity(512);
    encode::authentication_ok(&mut bytes);
    greeting.write(&mut bytes, settings).map_err(internal)?;
    let client = &registration.client;
    encode::backend_key_data(&mut bytes, client.virtual_pid, client.secret()).map_err(internal)?;
    if !notice.is_empty() {
        encode::notice_response(&mut bytes, &ErrorMessage::notice(notice));
    }
    encode::ready_for_query(&mut bytes, TransactionStatus::Idle);
    Ok(bytes)
}

/// User, database and parameter names are looked up in configuration, which is UTF-8.
fn text(bytes: &[u8], what: &'static str) -> Result<String, LoginError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        LoginError::refused(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("{what} in startup packet is not valid UTF-8"),
        )
    })
}
