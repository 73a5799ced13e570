//! Who may speak to a worker over a network: passes, under a key that a fleet shares.
//!
//! A gateway writes a pass for each request; the worker it is for admits it. A pass is good for one
//! worker, one method, one path and a short time, so that one that was overheard opens nothing else.
//! It proves who asks and keeps nothing secret: that is the network's part, or TLS's.

use crate::{Timestamp, WorkerId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{fmt, fmt::Write as _, time::Duration};

/// How long a pass is good. The clocks of a fleet may differ by less than that.
pub const PASS_LIFETIME: Duration = Duration::from_secs(30);
/// Shorter secrets can be guessed.
const MIN_SECRET_BYTES: usize = 32;

/// What every gateway and worker of one fleet knows and nobody else.
#[derive(Clone)]
pub struct FleetKey(Hmac<Sha256>);

/// A secret that is no fleet key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a fleet key has {MIN_SECRET_BYTES} or more bytes, this one has {bytes}; make one with `openssl rand -hex 32`"
)]
pub struct WeakKey {
    /// Its length.
    bytes: usize,
}

/// Why a pass is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// It is not a pass for this request, or was written under another key.
    #[error("the pass is not for this request, or was written under another fleet key")]
    Wrong,
    /// It is of another time.
    #[error("the pass is of another time: see that the clocks of gateway and worker agree")]
    Untimely,
}

/// The request that a pass is for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The worker that is asked.
    pub worker: WorkerId,
    /// The HTTP method.
    pub method: &'a str,
    /// The path, with its query.
    pub path: &'a str,
}

impl FleetKey {
    /// Takes the secret itself; white space around it does not count.
    ///
    /// # Errors
    /// [`WeakKey`] if it is too short.
    pub fn new(secret: &str) -> Result<Self, WeakKey> {
        let secret = secret.trim().as_bytes();
        let weak = WeakKey { bytes: secret.len() };
        if secret.len() < MIN_SECRET_BYTES {
            return Err(weak);
        }
        Hmac::new_from_slice(secret).map(Self).map_err(|_| weak)
    }

    /// A pass for one request, good from now on for [`PASS_LIFETIME`].
    pub fn pass(&self, asked: Asked<'_>, now: Timestamp) -> String {
        let until = now.after(PASS_LIFETIME).as_millis();
        let proof = self.proof(asked, until).finalize().into_bytes();
        let mut pass = format!("{until}.");
        for byte in proof {
            let _ = write!(pass, "{byte:02x}");
        }
        pass
    }

    /// Whether `pass` is one for this request.
    ///
    /// # Errors
    /// [`NotAdmitted`]: it is not.
    pub fn admit(&self, pass: &str, asked: Asked<'_>, now: Timestamp) -> Result<(), NotAdmitted> {
        let (until, proof) = pass.split_once('.').ok_or(NotAdmitted::Wrong)?;
        let until: i64 = until.parse().map_err(|_| NotAdmitted::Wrong)?;
        let proof = unhex(proof).ok_or(NotAdmitted::Wrong)?;
        // Takes as long for a wrong proof as for a right one.
        self.proof(asked, until).verify_slice(&proof).map_err(|_| NotAdmitted::Wrong)?;
        let latest = now.after(PASS_LIFETIME).after(PASS_LIFETIME).as_millis();
        let timely = (now.as_millis()..=latest).contains(&until);
        if timely { Ok(()) } else { Err(NotAdmitted::Untimely) }
    }

    fn proof(&self, asked: Asked<'_>, until: i64) -> Hmac<Sha256> {
        let Asked { worker, method, path } = asked;
        let mut proof = self.0.clone();
        // None of them but the last can have a line's end in it.
        proof.update(format!("aetherium-pass-1\n{worker}\n{until}\n{method}\n{path}").as_bytes());
        proof
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetKey")
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn key(digit: &str) -> FleetKey {
        FleetKey::new(&digit.repeat(MIN_SECRET_BYTES)).unwrap()
    }

    #[test]
    fn a_pass_opens_one_request_of_one_worker_for_a_while() {
        let (ours, worker) = (key("a"), WorkerId::new());
        let asked = Asked { worker, method: "GET", path: "/internal/v1/health" };
        let pass = ours.pass(asked, NOW);
        let at = |millis| Timestamp::from_millis(NOW.as_millis() + millis);
        assert_eq!(ours.admit(&pass, asked, NOW), Ok(()));
        // The worker's clock may be behind or ahead.
        assert_eq!(ours.admit(&pass, asked, at(30_000)), Ok(()));
        assert_eq!(ours.admit(&pass, asked, at(-30_000)), Ok(()));
        assert_eq!(ours.admit(&pass, asked, at(30_001)), Err(NotAdmitted::Untimely));
        assert_eq!(ours.admit(&pass, asked, at(-30_001)), Err(NotAdmitted::Untimely));

        let wrong = Err(NotAdmitted::Wrong);
        assert_eq!(key("b").admit(&pass, asked, NOW), wrong);
        for other in [
            Asked { worker: WorkerId::new(), ..asked },
            Asked { method: "POST", ..asked },
            Asked { path: "/internal/v1/templates", ..asked },
        ] {
            assert_eq!(ours.admit(&pass, other, NOW), wrong);
        }
        let (until, proof) = pass.split_once('.').unwrap();
        let later = until.parse::<i64>().unwrap() + 1;
        for bad in [format!("{later}.{proof}"), until.into(), format!("{until}."), String::new()] {
            assert_eq!(ours.admit(&bad, asked, NOW), wrong, "{bad:?}");
        }
    }

    #[test]
    fn a_short_secret_is_no_key_and_a_key_never_shows() {
        assert!(FleetKey::new(&"x".repeat(31)).is_err());
        assert!(FleetKey::new(&format!("{}\n", "x".repeat(31))).is_err());
        assert_eq!(format!("{:?}", key("s")), "FleetKey");
    }
}
