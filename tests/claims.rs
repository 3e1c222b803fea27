//! Claims between processes: one winner, freed at death, replacement only of what nobody claims, nothing left behind.

mod support;

use snapring_core::clock::mono_ns;
use snapring_core::layout::cell;
use snapring_core::{Ask, Error, Ring, Writer, WriterOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use support::{Place, ROW, Rng, Role, attached, publish, reader, role, until, whole, writer_options};

const CONTENDERS: u32 = 16;
/// Marks a line that a contender answers; the test harness writes lines too.
const ANSWER: char = '>';

/// A child of the tests below: opens and closes a writer of its rank as its input says, and answers each line.
#[test]
fn a_contender_in_a_child() {
    let Some([path, rank, ranks]) = role() else { return };
    let (rank, ranks) = (rank.parse().unwrap(), ranks.parse().unwrap());
    let mut writer = None;
    for line in std::io::stdin().lines() {
        let answer = if line.unwrap() == "open" {
            match Writer::open(writer_options(Path::new(&path), rank, ranks)) {
                Ok(opened) => {
                    writer = Some(opened);
                    "won".to_owned()
                }
                Err(Error::WriterBusy { .. }) => "busy".to_owned(),
                Err(error) => format!("failed: {error}"),
            }
        } else {
            writer
                .take()
                .map_or(Ok(()), |writer| writer.close())
                .map_or_else(|error| error.to_string(), |()| "closed".into())
        };
        println!("\n{ANSWER}{answer}");
    }
}

/// A child that takes orders by lines.
struct Contender {
    role: Role,
    answers: BufReader<std::process::ChildStdout>,
}

impl Contender {
    fn start(path: &Path, rank: u32, ranks: u32) -> Self {
        let arguments = [path.display().to_string(), rank.to_string(), ranks.to_string()];
        let mut role = Role::start("a_contender_in_a_child", &arguments);
        let answers = BufReader::new(role.0.stdout.take().unwrap());
        Self { role, answers }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.role.0.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let lines = (&mut self.answers).lines().map(Result::unwrap);
        let mut answers = lines.filter_map(|line| line.strip_prefix(ANSWER).map(str::to_owned));
        answers.next().expect("an answer")
    }
}

/// Gives all the same order at once and collects what they answer.
fn all(contenders: &mut [Contender], order: &str) -> Vec<String> {
    for contender in contenders.iter_mut() {
        contender.order(order);
    }
    contenders.iter_mut().map(Contender::answer).collect()
}

/// Of 16 processes that claim one rank at once exactly one wins, whether the file is there or not.
#[test]
fn one_contender_wins() {
    let place = Place::new();
    let mut contenders: Vec<_> = (0..CONTENDERS).map(|_| Contender::start(place.path(), 0, 1)).collect();
    for race in 0..100 {
        let answers = all(&mut contenders, "open");
        let won = answers.iter().filter(|&answer| answer == "won").count();
        let busy = answers.iter().filter(|&answer| answer == "busy").count();
        assert_eq!((won, busy), (1, CONTENDERS as usize - 1), "race {race}: {answers:?}");
        all(&mut contenders, "close");
        assert_eq!(place.files(), [""; 0], "race {race}");
    }
    for contender in contenders {
        contender.role.finish();
    }
}

/// However many writers close at once, the last of them removes the ring and its bell.
#[test]
fn the_last_of_many_closers_removes_the_ring() {
    let place = Place::new();
    let mut contenders: Vec<_> = (0..CONTENDERS).map(|rank| Contender::start(place.path(), rank, CONTENDERS)).collect();
    for round in 0..100 {
        let opened = all(&mut contenders, "open");
        assert!(opened.iter().all(|answer| answer == "won"), "round {round}: {opened:?}");
        assert_eq!(place.files(), ["test.bell", "test.ring"]);

        let closed = all(&mut contenders, "close");

        assert!(closed.iter().all(|answer| answer == "closed"), "round {round}: {closed:?}");
        assert_eq!(place.files(), [""; 0], "round {round}");
    }
    for contender in contenders {
        contender.role.finish();
    }
}

/// A claim ends with its process, and the refusal before names the holder.
#[test]
fn a_claim_is_free_after_sigkill() {
    let place = Place::new();
    for _ in 0..50 {
        let mut holder = Contender::start(place.path(), 0, 1);
        holder.order("open");
        assert_eq!(holder.answer(), "won");
        let refused = Writer::open(writer_options(place.path(), 0, 1)).unwrap_err();
        assert!(
            matches!(refused, Error::WriterBusy { rank: 0, pid, .. } if pid == u64::from(holder.role.0.id())),
            "{refused}"
        );

        holder.role.0.kill().unwrap();
        holder.role.0.wait().unwrap();

        Writer::open(writer_options(place.path(), 0, 1)).expect("a free rank");
    }
}

/// ns after a question of the kernel in which `Ask::Recent` repeats its answer.
const RECENT_NS: u64 = 50_000_000;

/// Has a fresh ring's claim asked for and then freed; the ring, and when the answer "claimed" was there at the latest.
fn outdated(place: &Place) -> (Arc<Ring>, u64) {
    let writer = Writer::open(writer_options(place.path(), 0, 1)).unwrap();
    let ring = attached(&reader(place.path()));
    assert!(ring.is_claimed(0, Ask::Now).unwrap());
    let answered_ns = mono_ns();
    writer.close().unwrap();
    (ring, answered_ns)
}

/// Asks `ring` until its answer turns; when the last question began that was still answered with the old one, ns.
fn last_outdated_ns(ring: &Ring, ask: Ask) -> u64 {
    let mut last_ns = 0;
    loop {
        let asked_ns = mono_ns();
        if !ring.is_claimed(0, ask).unwrap() {
            return last_ns;
        }
        last_ns = asked_ns;
    }
}

/// An answer about a claim is repeated for 50 ms and no longer; for less than 25 ms to the thread that asks ahead.
#[test]
fn an_answer_about_a_claim_ages() {
    let place = Place::new();
    for (ask, limit_ns) in [(Ask::Recent, RECENT_NS), (Ask::Ahead, RECENT_NS / 2)] {
        // A pause of the machine may outlast the answer; then there was nothing to repeat.
        until("an answer that is repeated", || {
            let (ring, answered_ns) = outdated(&place);
            let last_ns = last_outdated_ns(&ring, ask);
            assert!(last_ns < answered_ns + limit_ns, "{ask:?}: {} ns old", last_ns - answered_ns);
            last_ns > 0
        });
    }
}

/// Who asks for now gets the truth of this moment, however recent the last answer.
#[test]
fn an_answer_of_this_moment_is_never_old() {
    let place = Place::new();
    for _ in 0..100 {
        let ring = outdated(&place).0;
        assert!(!ring.is_claimed(0, Ask::Now).unwrap());
        assert!(!ring.is_claimed(0, Ask::Recent).unwrap(), "an answer older than the last");
    }
}

/// While `writer` lives, the path names its generation, its versions are dense and nobody else writes its rank.
fn use_alone(path: &Path, writer: &Writer, rank: u32) {
    let nonce = writer.header().unwrap().nonce;
    let (epoch, _) = writer.position().unwrap();
    let ring = attached(&reader(path));
    assert_eq!(ring.header.nonce, nonce, "a second generation beside a living writer");
    for _ in 0..5 {
        let version = publish(writer);
        std::thread::yield_now();
        let mut row = [0; ROW];
        assert!(ring.read(rank, &mut row).unwrap());
        assert_eq!((whole(&row), row[cell::EPOCH]), (version, epoch), "a second living writer of rank {rank}");
    }
}

/// A child of the test below.
#[test]
fn a_replacer_in_a_child() {
    let Some([path, rounds]) = role() else { return };
    let (path, mut random) = (Path::new(&path), Rng::new());
    for _ in 0..rounds.parse().unwrap() {
        let ranks = 1 + random.below(3) as u32;
        let rank = random.below(ranks.into()) as u32;
        match Writer::open(writer_options(path, rank, ranks)) {
            Ok(writer) => {
                use_alone(path, &writer, rank);
                writer.close().unwrap();
            }
            Err(Error::WriterBusy { .. } | Error::LayoutMismatch(_)) => {}
            Err(error) => panic!("{error}"),
        }
        // Whatever the others do now: there is a whole ring or none.
        if let Some(ring) = reader(path).ring().unwrap().as_ref() {
            assert!((1..=3).contains(&ring.ranks()));
        }
    }
}

/// 16 processes that open, replace and remove one ring with three geometries: a reader meets a whole file or none, a
/// living writer is alone in its rank and in its name, and nothing is left at the end.
#[test]
fn replacements_race() {
    let place = Place::new();
    let arguments = [place.path().display().to_string(), "100".into()];

    let children: Vec<_> = (0..CONTENDERS).map(|_| Role::start("a_replacer_in_a_child", &arguments)).collect();

    children.into_iter().for_each(Role::finish);
    assert_eq!(place.files(), [""; 0]);
}

/// A closed writer's rank is free at once, even while a child that shares its descriptors is on its way to an exec.
#[test]
fn a_closed_rank_is_free_while_children_start() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let writers = scope.spawn(|| {
            for _ in 0..2_000 {
                let options = WriterOptions { keep: true, wake: false, ..writer_options(place.path(), 0, 1) };
                Writer::open(options).expect("a free rank").close().unwrap();
            }
        });
        while !writers.is_finished() {
            assert!(std::process::Command::new("true").status().unwrap().success());
        }
    });
}
