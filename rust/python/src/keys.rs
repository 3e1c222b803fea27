//! Key files for senders and relays.

use crate::error::OrRaise;
use crate::relay::public_key;
use pyo3::prelude::*;
use snapring_relay::curve::KeyPair;
use std::path::PathBuf;

/// Make a key pair: the file `path` of mode 0600, and its public half in a `.pub` file beside it.
///
/// Returns the public key, 40 characters. Nothing is overwritten: SystemRefused where a file is there already. The
/// secret is in the file only.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "as Python passes it")]
pub(crate) fn make_keys(path: PathBuf) -> PyResult<String> {
    let pair = KeyPair::generate().or_raise()?;
    pair.save(&path).or_raise()?;
    Ok(pair.public().as_str().to_owned())
}

/// The public key of a key file, or of a `.pub` file, or of the text itself: 40 characters.
///
/// Raises InvalidValue for what is no key, RingUntrusted for a key file that others may read.
#[pyfunction]
#[pyo3(name = "public_key")]
#[expect(clippy::needless_pass_by_value, reason = "as Python passes it")]
pub(crate) fn read_public_key(path: PathBuf) -> PyResult<String> {
    if path.extension().is_none_or(|extension| extension != "pub") && path.is_file() {
        return Ok(KeyPair::load(&path).or_raise()?.public().as_str().to_owned());
    }
    Ok(public_key(&path.to_string_lossy())?.as_str().to_owned())
}
