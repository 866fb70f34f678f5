//! Runs one exercise three ways and compares what it said: straight at PostgreSQL, through pgbaton
//! in transaction mode, and in session mode, on databases with the same contents.
//!
//! An exercise opens each step with a line `== NAME`; what follows is the step's result. Lines that
//! begin with `#` are facts about the run, which may differ: they tell whether servers were shared.
//! It knows nothing of what the exercises do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::{Ending, Job, Supervised, code};

use crate::stage::Stage;
use crate::support::postgres::SUPERUSER;
use crate::tls;

/// Servers of each pool: fewer than an exercise has connections.
pub const POOL_SIZE: usize = 2;
/// How long one run may take. It takes a few seconds.
const RUN_TIMEOUT: Duration = Duration::from_secs(90);
/// What a run that hangs waits for.
const ACTIVITY: &str = "select concat_ws(' ', pid, application_name, state, wait_event, query) \
     from pg_stat_activity where datname = current_database()";
const SCHEMA: &str = include_str!("../../drivers/schema.sql");

/// Where an exercise connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To PostgreSQL itself: what it says here is right.
    Direct,
    /// Through pgbaton, a server for each transaction.
    Transaction,
    /// Through pgbaton, a server for each session.
    Session,
}

/// Whether pgbaton offers TLS: a driver that is told to ask for it gets it.
const CLIENT_TLS: &str = "allow";

impl Way {
    /// All of them, the one that is right first.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Transaction, Self::Session];

    /// Whether connections can wait for each other: not where each keeps one of few servers.
    pub const fn is_together(self) -> bool {
        !matches!(self, Self::Session)
    }
}

/// A step that is left out of some ways, because pgbaton cannot do there what PostgreSQL does.
pub type Gap = (&'static str, &'static [Way]);

/// A database of its own, and the way to it.
pub struct Place {
    /// The way.
    pub way: Way,
    /// The steps that must be left out.
    pub without: Vec<&'static str>,
    /// The database, and the pgbaton in front of it (which is idle if the way is direct).
    pub stage: Stage,
    folder: tempfile::TempDir,
}

impl Place {
    /// Makes the database, with the exercises' schema.
    pub fn open(way: Way, without: Vec<&'static str>) -> Self {
        let mode = if way == Way::Session { "\"session\"" } else { "\"transaction\"" };
        let stage = Stage::with(POOL_SIZE, |config| {
            tls::offering(config, CLIENT_TLS).set("pool_mode", mode)
        });
        stage.postgres.sql(&stage.database, SCHEMA);
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        Self { way, without, stage, folder }
    }

    /// The port on 127.0.0.1 that leads to the database.
    pub fn port(&self) -> u16 {
        match self.way {
            Way::Direct => self.stage.postgres.port(),
            Way::Transaction | Way::Session => self.stage.pgbaton.address().port(),
        }
    }

    /// An empty folder for the run's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `program` in [`folder`](Self::folder) with an environment that has nothing of the
    /// caller's but the search path. What it says on both its outputs goes into one file.
    pub fn start(
        &self,
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, &str)],
    ) -> Process {
        let path = std::env::var("PATH").expect("a search path");
        let own = [
            ("PATH", path.as_str()),
            ("HOME", self.folder().to_str().expect("a readable path")),
            ("LANG", "C.UTF-8"),
            ("EXERCISE_TOGETHER", if self.way.is_together() { "yes" } else { "no" }),
            ("EXERCISE_WITHOUT", &self.without.join(",")),
        ];
        let set = own.iter().chain(environment).map(|(name, value)| format!("{name}={value}"));
        let mut all = vec![OsString::from("-i")];
        all.extend(set.map(OsString::from));
        all.push(program.into());
        all.extend_from_slice(arguments);
        // Its own for each, since a test may start several.
        let log = tempfile::NamedTempFile::new_in(self.folder()).unwrap().into_temp_path();
        let log = log.keep().unwrap();
        let job = Job {
            program: "/usr/bin/env".into(),
            arguments: all,
            environment: Vec::new(),
            folder: self.folder().to_owned(),
            log: log.clone(),
            user: None,
            ending: Ending::Kill,
            remove: None,
        };
        Process { child: Supervised::start(&job).unwrap(), log }
    }

    /// [`start`](Self::start)s a program with `HOST PORT DATABASE USER` after its other arguments, and
    /// returns what it said; it must end well and in time.
    pub fn run(&self, program: &Path, own: &[OsString], environment: &[(&str, &str)]) -> String {
        let port = self.port().to_string();
        let whereto = ["127.0.0.1", &port, &self.stage.database, SUPERUSER].map(OsString::from);
        let arguments = [own, &whereto].concat();
        let mut process = self.start(program, &arguments, environment);
        let (status, said) = process.finish(self);
        assert_eq!(status, Some(0), "{:?}: {} said:\n{said}", self.way, program.display());
        said
    }
}

/// A started program.
pub struct Process {
    /// The program itself.
    pub child: Supervised,
    log: PathBuf,
}

impl Process {
    /// Waits for its end; returns its status and all that it said. Fails the test if it takes long.
    pub fn finish(&mut self, place: &Place) -> (Option<i32>, String) {
        let deadline = Instant::now() + RUN_TIMEOUT;
        let status = self.child.wait(|| Instant::now() > deadline).unwrap();
        let status = status.unwrap_or_else(|| {
            panic!(
                "{:?}: it hangs after saying:\n{}\nservers: {}\npgbaton counts {:?} and logs\n{}",
                place.way,
                self.said(),
                place.stage.sql(ACTIVITY),
                place.stage.counts(),
                place.stage.pgbaton.log(),
            )
        });
        (code(status), self.said())
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log);
        let bytes = bytes.unwrap_or_else(|e| panic!("{}: {e}", self.log.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What one run said.
#[derive(Debug, Default)]
pub struct Said {
    /// Names and results, in order.
    pub steps: Vec<(String, String)>,
    /// The lines after `#`.
    pub facts: Vec<String>,
}

impl Said {
    /// Takes an exercise's output apart. The database's name and port, in which the ways differ, are
    /// replaced.
    fn parse(output: &str, place: &Place) -> Self {
        let mut said = Self::default();
        let port = format!("port {}", place.port());
        let output = output.replace(&place.stage.database, "DATABASE").replace(&port, "port PORT");
        for line in output.lines() {
            if let Some(fact) = line.strip_prefix("# ") {
                said.facts.push(fact.to_owned());
            } else if let Some(name) = line.strip_prefix("== ") {
                said.steps.push((name.to_owned(), String::new()));
            } else {
                let last = said.steps.last_mut();
                let (_, result) = last.unwrap_or_else(|| panic!("before any step: {line}"));
                result.push_str(line);
                result.push('\n');
            }
        }
        said
    }

    fn names(&self) -> Vec<&str> {
        self.steps.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The numbers of the only fact that begins with `name`, in order.
    pub fn numbers(&self, name: &str) -> Vec<usize> {
        let mut facts = self.facts.iter().filter_map(|fact| fact.strip_prefix(name));
        let (Some(fact), None) = (facts.next(), facts.next()) else {
            panic!("not one fact about {name} in {:?}", self.facts);
        };
        fact.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    }
}

/// Runs `exercise` in all ways at once; returns what it said in each, which was the same. `steps` are
/// the names that PostgreSQL's own run must have, in order; `gaps` is what the others leave out.
pub fn compare(steps: &str, gaps: &[Gap], exercise: impl Fn(&Place) -> String + Sync) -> [Said; 3] {
    let steps: Vec<&str> = steps.split_whitespace().chain(["done"]).collect();
    for (step, _) in gaps {
        assert!(steps.contains(step), "no step {step} to leave out");
    }
    let run = |way: Way| {
        let gaps = gaps.iter().filter(|(_, ways)| ways.contains(&way));
        let mut place = Place::open(way, gaps.map(|(step, _)| *step).collect());
        let said = Said::parse(&exercise(&place), &place);
        if way != Way::Direct {
            // Nothing is left behind either: no client, no transaction, no server too many.
            place.stage.assert_settled(0);
            assert!((1..=POOL_SIZE).contains(&place.stage.backends().len()), "{way:?}");
        }
        (said, place.without)
    };
    let [direct, transaction, session] = thread::scope(|scope| {
        let run = &run;
        let started = Way::ALL.map(|way| scope.spawn(move || run(way)));
        // A failed assertion goes on failing, with its own words.
        started.map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    });
    assert_eq!(direct.0.names(), steps, "what an exercise must do, and did at PostgreSQL");
    assert_sound(&direct.0);
    for (way, (said, without)) in [(Way::Transaction, &transaction), (Way::Session, &session)] {
        assert_same(way, &direct.0, said, without);
    }
    [direct.0, transaction.0, session.0]
}

/// No step has failed where all must succeed, and each but the last has said something.
fn assert_sound(direct: &Said) {
    let (last, steps) = direct.steps.split_last().expect("steps");
    assert_eq!(last, &("done".to_owned(), String::new()));
    for (name, result) in steps {
        assert!(!result.contains("FAILED"), "{name} fails at PostgreSQL: {result}");
        assert!(!result.trim().is_empty(), "{name} says nothing");
    }
}

fn assert_same(way: Way, direct: &Said, said: &Said, without: &[&str]) {
    let expected = direct.steps.iter().filter(|(name, _)| !without.contains(&name.as_str()));
    let expected: Vec<&(String, String)> = expected.collect();
    let names: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(said.names(), names, "{way:?}");
    let pairs = expected.iter().zip(&said.steps).filter(|(right, other)| right.1 != other.1);
    let differences: Vec<String> = pairs
        .map(|(right, other)| {
            format!("{}:\nPostgreSQL: {}{way:?} mode: {}", right.0, right.1, other.1)
        })
        .collect();
    assert!(differences.is_empty(), "pgbaton differs from PostgreSQL in\n{}", differences.concat());
}

/// The crowd's fact, `crowd: N members, N backends, N wandered`: it was larger than the pool, all of
/// the pool was used, and somebody was served by more than one server.
pub fn assert_crowded(said: &[Said; 3]) {
    let numbers = |said: &Said| -> [usize; 3] {
        said.numbers("crowd:").try_into().expect("members, backends, wandered")
    };
    let [direct, transaction, session] = said.each_ref().map(numbers);
    let [members, backends, wandered] = direct;
    assert!(members > POOL_SIZE, "{direct:?}");
    assert_eq!([backends, wandered], [members, 0], "straight at PostgreSQL each has its own");
    assert_eq!(transaction[..2], [members, POOL_SIZE], "{transaction:?}");
    assert!(transaction[2] > 0, "{:?}", said[1].facts);
    assert_eq!([session[0], session[2]], [members, 0], "{session:?}");
    assert!((1..=POOL_SIZE).contains(&session[1]), "{session:?}");
}

/// The fact `prepared: N`: the driver has prepared statements at the server by itself, or has not.
pub fn assert_prepared(said: &[Said; 3], prepared: bool) {
    for said in said {
        let count = said.numbers("prepared:")[0];
        assert_eq!(count > 0, prepared, "{count} statements are prepared");
    }
}
