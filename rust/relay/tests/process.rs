//! libzmq as a guest in somebody else's process: forks, few descriptors, programs that are started.
#![allow(unsafe_code, reason = "forks, limits and socket options, which the standard library has not")]

mod support;

use snapring_relay::zmq::{Context, SocketKind};
use snapring_relay::{Endpoint, Error, LinkEvent, Pull, Push, Sink, Source};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use support::{Heard, LOCAL, Role, bring_up, drive, pull_options, push_options, readable, role, turn, until};

/// Marks a line that a child tells; the test harness writes lines too.
const TOLD: &str = ">";

fn open_descriptors() -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let listed: Vec<i32> = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The listing's own descriptor is closed again.
    listed.into_iter().filter(|fd| std::fs::metadata(format!("/proc/self/fdinfo/{fd}")).is_ok()).collect()
}

/// A relay and a sender of its own in one process, connected.
fn both_ends() -> (Pull, Push, Heard) {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    (pull, push, heard)
}

/// A child: looks at the descriptors that both ends opened. It is a process of its own, so no other test opens any.
#[test]
fn descriptors_in_a_child() {
    let Some([]) = role() else { return };
    let before = open_descriptors();
    let (pull, push, _heard) = both_ends();

    let opened: Vec<i32> = open_descriptors().difference(&before).copied().collect();

    // SAFETY: asks about a number; one that names nothing is an error.
    let kept = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } & libc::FD_CLOEXEC == 0;
    let kept: Vec<i32> = opened.iter().copied().filter(kept).collect();
    assert!(opened.len() > 10 && kept.is_empty(), "{kept:?} of {opened:?} stay open in programs that are started");
    let connections: Vec<i32> = opened.into_iter().filter(|fd| connected(*fd)).collect();
    assert_eq!(connections.len(), 2, "both ends of one connection");
    for fd in connections {
        assert_eq!(socket_option(fd, libc::SO_KEEPALIVE), Some(1), "keepalive of descriptor {fd}");
    }
    drop((pull, push));
    assert_eq!(open_descriptors(), before, "closing gives every descriptor back");
}

fn socket_option(fd: i32, option: i32) -> Option<i32> {
    let (mut value, mut len) = (0_i32, size_of::<i32>() as u32);
    // SAFETY: a buffer of `len` bytes; a number that names no socket is an error.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len) };
    (done == 0).then_some(value)
}

/// Whether `fd` is a TCP connection: a stream of the internet that does not listen.
fn connected(fd: i32) -> bool {
    let is = |option, value| socket_option(fd, option) == Some(value);
    is(libc::SO_DOMAIN, libc::AF_INET) && is(libc::SO_TYPE, libc::SOCK_STREAM) && is(libc::SO_ACCEPTCONN, 0)
}

/// No descriptor of libzmq's reaches a program that the host starts, and keepalive is on at both ends.
#[test]
fn descriptors_are_closed_on_exec_and_connections_kept_alive() {
    Role::start("descriptors_in_a_child", &[]).finish();
}

fn limit_descriptors(soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a living struct.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// A child: opens both ends under every limit of descriptors from none left to enough for all.
#[test]
fn few_descriptors_in_a_child() {
    let Some([]) = role() else { return };
    let open = open_descriptors().len() as u64;
    let (mut opened, mut refused) = (0, 0);
    for spare in 0..120 {
        limit_descriptors(open + spare);
        let outcomes = [
            Context::new().and_then(|context| context.socket(SocketKind::Pub).map(drop)),
            Pull::bind(&pull_options(LOCAL)).map(drop),
            Push::connect(&push_options(&Endpoint::parse("tcp://127.0.0.1:9").unwrap())).map(drop),
        ];
        for outcome in outcomes {
            match outcome {
                Ok(()) => opened += 1,
                Err(Error::Io { what, .. }) if what.contains("ulimit -n") => refused += 1,
                Err(error) => panic!("with {spare} to spare: {error}"),
            }
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

/// Where descriptors are too few for libzmq, opening is a typed error, and the process lives.
#[test]
fn few_descriptors_are_an_error() {
    Role::start("few_descriptors_in_a_child", &[]).finish();
}

/// A child: a relay that can accept nobody.
#[test]
fn a_full_relay_in_a_child() {
    let Some([]) = role() else { return };
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    limit_descriptors(3); // those that are open stay so, and a poll of one stays allowed
    println!("\n{TOLD}{}", pull.endpoint());

    // Long enough for a sender to knock in vain, and for events to pile up if any came of that.
    let end = std::time::Instant::now() + std::time::Duration::from_millis(300);
    drive(&mut pull, &mut heard, "the time to pass", |_, _| std::time::Instant::now() > end);
    assert!(heard.frames.is_empty());

    limit_descriptors(1024);
    drive(&mut pull, &mut heard, "a frame", |heard, _| !heard.frames.is_empty());
}

/// The next line that the child tells.
fn told(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the child ended");
        if let Some(told) = line.trim_end().strip_prefix(TOLD) {
            return told.to_owned();
        }
    }
}

/// A relay that runs out of descriptors accepts again once it can.
#[test]
fn a_relay_survives_without_descriptors() {
    let mut child = Role::start("a_full_relay_in_a_child", &[]);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let endpoint = Endpoint::parse(&told(&mut lines)).unwrap();
    let mut push = Push::connect(&push_options(&endpoint)).unwrap();

    until("a frame to go", || {
        push.links().unwrap();
        push.send(b"at last").unwrap()
    });

    lines.read_to_end(&mut Vec::new()).unwrap();
    child.finish();
}

/// What the child of a fork does: nothing works, all is dropped, then it lives until its input ends.
fn live_on(mut pull: Pull, mut push: Push) -> ! {
    let forked = [
        pull.recv().is_err_and(|error| matches!(error, Error::Forked(_))),
        pull.serve_gate().is_err_and(|error| matches!(error, Error::Forked(_))),
        pull.rearm().is_err_and(|error| matches!(error, Error::Forked(_))),
        push.send(b"child").is_err_and(|error| matches!(error, Error::Forked(_))),
        push.links().is_err_and(|error| matches!(error, Error::Forked(_))),
    ];
    drop((pull, push));
    println!("\n{TOLD}{forked:?}");
    let _ = std::io::stdin().read(&mut [0]); // ends with the test that holds the other end
    // SAFETY: ends this process without running what belongs to the parent.
    unsafe { libc::_exit(0) }
}

/// A child: talks to the test in both directions, forks, talks on, and dies before its own child.
#[test]
fn a_forking_process() {
    let Some([peer]) = role() else { return };
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(&Endpoint::parse(&peer).unwrap())).unwrap();
    println!("\n{TOLD}{}", pull.endpoint());
    until("both connections", || {
        turn(&mut pull, &mut heard, 64);
        push.links().unwrap();
        push.is_up() && !heard.frames.is_empty()
    });
    // SAFETY: the child keeps to memory of its own, to pipes and to _exit.
    if unsafe { libc::fork() } == 0 {
        live_on(pull, push);
    }
    let before = heard.frames.len();

    until("a frame to go", || push.send(b"after the fork").unwrap());
    drive(&mut pull, &mut heard, "frames after the fork", |heard, _| heard.frames.len() > before + 50);

    // SAFETY: a sudden death, as by a signal.
    unsafe { libc::_exit(0) }
}

/// A child of a fork disturbs neither its parent nor, once that is dead, those who talked to it: they see the
/// connections end, and the port is free, although the child lives.
#[test]
fn a_fork_keeps_nothing_open() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut child = Role::start("a_forking_process", &[pull.endpoint().to_string()]);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let endpoint = Endpoint::parse(&told(&mut lines)).unwrap();
    let mut push = Push::connect(&push_options(&endpoint)).unwrap();

    // Out of the way of `wait`, which would close it.
    let input = child.0.stdin.take();

    let mut sees_the_end = false;
    drive(&mut pull, &mut heard, "the end of the process", |heard, _| {
        sees_the_end |= push.links().unwrap().down;
        let _ = push.send(b"to the process"); // full now and then
        sees_the_end && matches!(heard.links[..], [LinkEvent::Up(_), LinkEvent::Down(_)])
    });

    assert!(child.0.wait().unwrap().success(), "the fork disturbed the parent");
    assert_eq!(heard.frames, [b"after the fork".to_vec()]);
    assert_eq!(told(&mut lines), format!("{:?}", [true; 5]), "calls in the child");
    Pull::bind(&pull_options(&endpoint.to_string())).expect("the port is free");
    // The child of the fork holds its output open until its input ends; so it has lived until here.
    drop(input);
    lines.read_to_end(&mut Vec::new()).unwrap();
}

/// A descriptor that waits is not readable while a sender is idle and everything is taken.
#[test]
fn an_idle_relay_is_not_woken() {
    let (mut pull, _push, mut heard) = both_ends();
    until("quiet", || {
        turn(&mut pull, &mut heard, 64);
        !readable(pull.fd(), 200)
    });
}
