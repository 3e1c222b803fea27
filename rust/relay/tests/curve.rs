//! Keys: made, kept in files that only their owner reads, and never shown.

mod support;

use snapring_relay::{Error, KeyPair, PublicKey, SecretKey};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use support::made_place;

// The pair that libzmq's manual of CURVE shows.
const PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
const SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";

/// A saved pair is loaded again; its file is private, and the file beside it has the public key only.
#[test]
fn a_pair_survives_its_file() {
    let place = made_place();
    let (path, beside) = (place.path().join("relay.key"), place.path().join("relay.pub"));
    let pair = KeyPair::generate().unwrap();

    pair.save(&path).unwrap();

    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    let loaded = KeyPair::load(&path).unwrap();
    assert_eq!((loaded.public(), loaded.secret().reveal()), (pair.public(), pair.secret().reveal()));
    assert_eq!(PublicKey::load(&beside).unwrap(), *pair.public());
    assert!(!fs::read_to_string(&beside).unwrap().contains(pair.secret().reveal()));
}

/// Saving overwrites neither file, and leaves no half pair.
#[test]
fn nothing_is_overwritten() {
    let place = made_place();
    let (path, beside) = (place.path().join("a.key"), place.path().join("a.pub"));
    let pair = KeyPair::generate().unwrap();
    fs::write(&beside, "other").unwrap();

    assert!(matches!(pair.save(&path), Err(Error::Io { .. })));
    assert!(!path.exists());
    fs::remove_file(&beside).unwrap();
    pair.save(&path).unwrap();
    assert!(matches!(KeyPair::generate().unwrap().save(&path), Err(Error::Io { .. })));
    assert_eq!(KeyPair::load(&path).unwrap().public(), pair.public());
    assert!(matches!(pair.save(&beside), Err(Error::Invalid(_))));
}

/// A key file that others may have read, replaced or planted is refused, and the message says what to do.
#[test]
fn files_open_to_others_are_refused() {
    let place = made_place();
    let at = |name: &str| place.path().join(name);
    let pair = KeyPair::generate().unwrap();
    for name in ["loose.key", "linked.key", "right.key"] {
        pair.save(&at(name)).unwrap();
    }
    fs::set_permissions(at("loose.key"), Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(at("linked.key"), at("second.key")).unwrap();
    symlink(at("right.key"), at("link.key")).unwrap();
    fs::create_dir(at("folder.key")).unwrap();
    let cases =
        [("loose.key", "chmod 600"), ("linked.key", "hard links"), ("link.key", "link"), ("folder.key", "regular")];
    for (name, part) in cases {
        let Err(Error::Untrusted(message)) = KeyPair::load(&at(name)) else { panic!("{name} was taken") };
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
}

/// A public key that others could have replaced is refused; a link to a sound file serves.
#[test]
fn public_keys_that_others_may_write_are_refused() {
    let place = made_place();
    let at = |name: &str| place.path().join(name);
    let pair = KeyPair::generate().unwrap();
    for name in ["loose.key", "right.key"] {
        pair.save(&at(name)).unwrap();
    }
    fs::set_permissions(at("loose.pub"), Permissions::from_mode(0o664)).unwrap();
    fs::create_dir(at("folder.pub")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe.pub"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink(at("right.pub"), at("link.pub")).unwrap();

    for (name, part) in [("loose.pub", "chmod go-w"), ("folder.pub", "regular"), ("pipe.pub", "regular")] {
        let Err(Error::Untrusted(message)) = PublicKey::load(&at(name)) else { panic!("{name} was taken") };
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
    assert_eq!(PublicKey::load(&at("link.pub")).unwrap(), *pair.public());
}

/// A file whose keys are missing, mangled or of two pairs is refused; no message shows a secret.
#[test]
fn wrong_contents_are_refused() {
    let place = made_place();
    let path = place.path().join("wrong.key");
    let other = KeyPair::generate().unwrap();
    let contents = [
        String::new(),
        format!("public = \"{PUBLIC}\"\n"),
        format!("secret = \"{SECRET}\"\n"),
        format!("public = \"{PUBLIC}\"\nsecret = \"{}\"\n", &SECRET[1..]),
        format!("public = \"{PUBLIC}\"\nsecret = {SECRET}\n"),
        format!("public = \"{}\"\nsecret = \"{SECRET}\"\n", other.public()),
    ];
    for content in contents {
        fs::write(&path, &content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let Err(Error::Invalid(message)) = KeyPair::load(&path) else { panic!("{content:?} was taken") };
        assert!(!message.contains(&SECRET[1..]), "{message}");
    }
}

/// Z85 is read as the manual prints it, and the public key follows from the secret one.
#[test]
fn keys_are_those_of_zeromq() {
    let pair = KeyPair::new(SecretKey::parse(SECRET).unwrap()).unwrap();
    assert_eq!(pair.public(), &PublicKey::parse(PUBLIC).unwrap());
    assert_eq!(pair.public().to_string(), PUBLIC);

    for bad in ["", &PUBLIC[1..], &format!("{PUBLIC}x"), &PUBLIC.replace('Y', "\""), &PUBLIC.replace('Y', "é")[..40]] {
        assert!(PublicKey::parse(bad).is_err(), "{bad:?}");
    }
}

/// A secret does not show where values are printed.
#[test]
fn secrets_are_not_shown() {
    let pair = KeyPair::new(SecretKey::parse(SECRET).unwrap()).unwrap();

    let shown = format!("{pair:?} {:#?}", pair.secret());

    assert!(!shown.contains(SECRET) && shown.contains(PUBLIC), "{shown}");
    let Err(Error::Invalid(message)) = KeyPair::load(std::path::Path::new(SECRET)) else { panic!("a key for a path") };
    assert!(!message.contains(SECRET), "{message}");
}
