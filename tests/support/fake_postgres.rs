//! A fake PostgreSQL that plays a script per connection: it logs a client in, waits for messages,
//! sends bytes (whole or cut), stalls, closes or resets. It records all that it got.
//!
//! Connection N plays script N; the last script serves all later connections. Cancel requests are
//! recorded and use no script. All threads are joined on drop.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;

use super::messages::{self, int32};

const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The request codes of messages without a tag.
const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// The secret that every fake session gets; its pid is the connection's number plus 1000.
pub const SECRET: [u8; 4] = [1, 2, 3, 4];
/// Connection 0 has this pid.
pub const FIRST_PID: i32 = 1000;

/// One thing to do on a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Read the startup packet (refusing SSL and GSSAPI encryption), trust the client, report
    /// server_version and the usual parameters, a key, and ReadyForQuery.
    Login,
    /// The same, after so long. Counted while it lasts; see [`FakePostgres::most_logins_at_once`].
    LoginAfter(Duration),
    /// Read the startup packet only.
    Startup,
    /// Read messages up to and with the first one of this tag.
    Expect(u8),
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes in pieces of this size with a pause between them.
    Trickle(Vec<u8>, usize, Duration),
    /// Answer every Query and Sync like a server that does nothing, until the client leaves.
    /// See [`idle_reply`] for the answers.
    Serve,
    /// The same, each answer after so long.
    ServeAfter(Duration),
    /// Do nothing for this long.
    Pause(Duration),
    /// Do nothing, reading nothing, until the fake is dropped.
    Stall,
    /// Read and ignore everything until the client leaves.
    Drain,
    /// Close in order. Also what happens at the end of a script.
    Close,
    /// Close with a TCP reset.
    Reset,
}

/// One thing that a fake got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client connected (connection number).
    Connected(usize),
    /// The startup packet's body, after the protocol version.
    Startup(usize, Vec<u8>),
    /// A message: connection, tag, body.
    Message(usize, u8, Vec<u8>),
    /// A CancelRequest: pid and secret.
    Cancel(i32, Vec<u8>),
    /// The client closed or broke its connection while the script was reading or writing.
    Gone(usize),
    /// It did so by a reset: recorded behind [`Event::Gone`].
    Reset(usize),
}

/// A listening fake.
pub struct FakePostgres {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    scripts: Vec<Vec<Step>>,
    stopping: AtomicBool,
    logins: AtomicUsize,
    most_logins: AtomicUsize,
    /// Guards the record only; nothing else is locked under it.
    events: Mutex<Vec<Event>>,
}

impl FakePostgres {
    /// Listens on a free port of 127.0.0.1 and plays these scripts.
    pub fn start(scripts: Vec<Vec<Step>>) -> Self {
        assert!(!scripts.is_empty(), "a fake needs a script");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let events = Mutex::new(Vec::new());
        let shared = Arc::new(Shared {
            scripts,
            stopping: AtomicBool::new(false),
            logins: AtomicUsize::new(0),
            most_logins: AtomicUsize::new(0),
            events,
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("fake-acceptor".into()).spawn(move || {
                shared.accept_until_stopped(&listener);
            })
        };
        Self { address, shared, acceptor: Some(acceptor.unwrap()) }
    }

    /// Logs every client in and answers whatever it asks.
    pub fn serving() -> Self {
        Self::start(vec![vec![Step::Login, Step::Serve]])
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All it got so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.lock().clone()
    }

    /// Waits until it has got something that fits; fails the test with the record if it does not.
    pub fn wait_for(&self, fits: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + super::pgbaton::PATIENCE;
        loop {
            if let Some(event) = self.events().into_iter().find(|event| fits(event)) {
                return event;
            }
            assert!(Instant::now() < deadline, "the fake got only {:#?}", self.events());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The texts of the Query messages of one connection, in order.
    pub fn queries(&self, connection: usize) -> Vec<String> {
        let text = |body: Vec<u8>| String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
        let queries = self.events().into_iter().filter_map(|event| match event {
            Event::Message(from, b'Q', body) if from == connection => Some(text(body)),
            _ => None,
        });
        queries.collect()
    }

    /// The most logins that were under way at once, of those that were to take a time.
    pub fn most_logins_at_once(&self) -> usize {
        self.shared.most_logins.load(Ordering::Relaxed)
    }

    /// How many clients have connected; cancel requests do not count.
    pub fn connections(&self) -> usize {
        self.shared.connected()
    }
}

impl Drop for FakePostgres {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let outcome = self.acceptor.take().map(JoinHandle::join);
        // A second panic while the test is failing already would hide the first.
        if !thread::panicking() {
            assert!(!matches!(outcome, Some(Err(_))), "the fake itself failed, see above");
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn record(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// Each connection has a thread of its own; all are joined before this one ends.
    fn accept_until_stopped(self: &Arc<Self>, listener: &TcpListener) {
        let mut players = Vec::new();
        while !self.is_stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(self);
                    players.push(thread::spawn(move || shared.receive_client(stream)));
                }
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
        }
        for player in players {
            player.join().expect("a connection's thread failed");
        }
    }

    fn receive_client(&self, stream: TcpStream) {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(POLL_INTERVAL)).unwrap();
        stream.set_write_timeout(Some(POLL_INTERVAL)).unwrap();
        let mut peer = Peer { stream, shared: self, number: 0 };
        // No script: a cancel request, a port probe, or the end of the test.
        if let Ok(Some(script)) = peer.open()
            && let Err(e) = peer.play(&script)
            && !self.is_stopping()
        {
            self.record(Event::Gone(peer.number));
            if e.kind() == io::ErrorKind::ConnectionReset {
                self.record(Event::Reset(peer.number));
            }
        }
    }

    fn connected(&self) -> usize {
        connected(&self.events.lock())
    }

    /// The script of one connection.
    fn script(&self, number: usize) -> Vec<Step> {
        self.scripts[number.min(self.scripts.len() - 1)].clone()
    }
}

/// One connection being played.
struct Peer<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    number: usize,
}

impl Peer<'_> {
    /// Takes a number and its script; `None` after a CancelRequest, which uses up neither. A script
    /// that does not begin with Login or Startup does not wait for the first packet.
    fn open(&mut self) -> io::Result<Option<Vec<Step>>> {
        let next = self.shared.script(self.shared.connected());
        let startup = match next.first() {
            Some(Step::Login | Step::LoginAfter(_) | Step::Startup) => match self.read_startup()? {
                None => return Ok(None),
                startup => startup,
            },
            _ => None,
        };
        let mut events = self.shared.events.lock();
        self.number = connected(&events);
        events.push(Event::Connected(self.number));
        events.extend(startup.map(|startup| Event::Startup(self.number, startup)));
        Ok(Some(self.shared.script(self.number)))
    }

    /// The parameters of the StartupMessage; refuses encryption on the way.
    fn read_startup(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let length = int32(&self.read_exactly(4)?);
            let body = self.read_exactly(usize::try_from(length).unwrap_or(4).saturating_sub(4))?;
            let (code, rest) = body.split_at_checked(4).ok_or(io::ErrorKind::InvalidData)?;
            match int32(code) {
                SSL_REQUEST | GSSENC_REQUEST => self.write_all(b"N")?,
                CANCEL_REQUEST => {
                    let (pid, secret) = rest.split_at(4);
                    self.shared.record(Event::Cancel(int32(pid), secret.to_vec()));
                    return Ok(None);
                }
                _ => return Ok(Some(rest.to_vec())),
            }
        }
    }

    fn play(&mut self, script: &[Step]) -> io::Result<()> {
        for step in script {
            match step {
                Step::Startup => {}
                Step::Login => self.log_in()?,
                Step::LoginAfter(time) => {
                    let now = self.shared.logins.fetch_add(1, Ordering::Relaxed) + 1;
                    self.shared.most_logins.fetch_max(now, Ordering::Relaxed);
                    let slept = self.sleep(*time);
                    // Before the answer: once it has come, the next one may be begun.
                    self.shared.logins.fetch_sub(1, Ordering::Relaxed);
                    slept.and_then(|()| self.log_in())?;
                }
                Step::Expect(tag) => while self.read_message()?.0 != *tag {},
                Step::Send(bytes) => self.write_all(bytes)?,
                Step::Trickle(bytes, size, pause) => {
                    for piece in bytes.chunks(*size) {
                        self.write_all(piece)?;
                        self.sleep(*pause)?;
                    }
                }
                Step::Serve => self.serve(Duration::ZERO)?,
                Step::ServeAfter(time) => self.serve(*time)?,
                Step::Pause(time) => self.sleep(*time)?,
                Step::Stall => self.sleep(Duration::MAX)?,
                Step::Drain => loop {
                    self.read_message()?;
                },
                Step::Close => return Ok(()),
                Step::Reset => {
                    // A linger time of zero makes the close a reset.
                    set_socket_linger(&self.stream, Some(Duration::ZERO))?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn log_in(&mut self) -> io::Result<()> {
        let pid = FIRST_PID + i32::try_from(self.number).unwrap();
        self.write_all(&login_reply(pid, &SECRET))
    }

    fn serve(&mut self, after: Duration) -> io::Result<()> {
        loop {
            let (tag, _) = self.read_message()?;
            if tag == b'X' {
                return Ok(());
            }
            self.sleep(after)?;
            self.write_all(&idle_reply(tag))?;
        }
    }

    fn read_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let head = self.read_exactly(5)?;
        let length = usize::try_from(int32(&head[1..])).unwrap_or(4).saturating_sub(4);
        let body = self.read_exactly(length)?;
        self.shared.record(Event::Message(self.number, head[0], body.clone()));
        Ok((head[0], body))
    }

    /// Reads with short timeouts, so that the end of the test is noticed.
    fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => filled += more,
                Err(e) => self.unless_it_goes_on(e)?,
            }
        }
        Ok(bytes)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) => self.unless_it_goes_on(e)?,
            }
        }
        Ok(())
    }

    /// A timeout is no error unless the test has ended.
    fn unless_it_goes_on(&self, error: io::Error) -> io::Result<()> {
        let is_timeout =
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let goes_on = is_timeout && !self.shared.is_stopping();
        if goes_on { Ok(()) } else { Err(error) }
    }

    fn sleep(&self, time: Duration) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            if self.shared.is_stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            thread::sleep(POLL_INTERVAL.min(time));
        }
        Ok(())
    }
}

fn connected(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Connected(_))).count()
}

/// AuthenticationOk, the parameters a client expects, BackendKeyData, ReadyForQuery.
pub fn login_reply(pid: i32, secret: &[u8]) -> Vec<u8> {
    let mut bytes = messages::message(b'R', &0_i32.to_be_bytes());
    for (name, value) in [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ] {
        bytes.extend(messages::message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    let mut key = pid.to_be_bytes().to_vec();
    key.extend(secret);
    bytes.extend(messages::message(b'K', &key));
    bytes.extend(ready(b'I'));
    bytes
}

/// What a server that does nothing answers: to Query an empty SELECT and ReadyForQuery, to Parse,
/// Bind, Close and Describe their completion, to Execute an empty SELECT, to Sync ReadyForQuery.
pub fn idle_reply(tag: u8) -> Vec<u8> {
    match tag {
        b'Q' => [command_complete("SELECT 0"), ready(b'I')].concat(),
        b'P' => messages::message(b'1', &[]),
        b'B' => messages::message(b'2', &[]),
        b'C' => messages::message(b'3', &[]),
        b'D' => messages::message(b'n', &[]),
        b'E' => command_complete("SELECT 0"),
        b'S' => ready(b'I'),
        _ => Vec::new(),
    }
}

/// CommandComplete.
pub fn command_complete(tag: &str) -> Vec<u8> {
    messages::message(b'C', format!("{tag}\0").as_bytes())
}

/// ReadyForQuery.
pub fn ready(status: u8) -> Vec<u8> {
    messages::message(b'Z', &[status])
}

/// ErrorResponse.
pub fn error(severity: &str, code: &str, message: &str) -> Vec<u8> {
    let body = format!("S{severity}\0V{severity}\0C{code}\0M{message}\0\0");
    messages::message(b'E', body.as_bytes())
}

/// DataRow of text columns.
pub fn data_row(columns: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
        body.extend(column.as_bytes());
    }
    messages::message(b'D', &body)
}
