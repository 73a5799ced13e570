//! Logins: an assistant that is known to its provider by its user's browser, and not by a key.
//!
//! ```text
//! starting ──► waiting ◄──► submitting ──► succeeded
//!     └───────────┴─────────────┴────────► failed │ expired │ cancelled
//! ```
//! Its program is started in the workspace's VM and prints an address, perhaps with a code, which the
//! user opens (`waiting`). What the user brings back is given to it (`submitting`), unless it finds out by
//! itself. It has succeeded when its credentials are stored. A program that asks again is waited for again.

use crate::{Fault, LoginId, Timestamp, WorkspaceId, assistant::AssistantName};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a login may take where nobody says, in seconds.
pub const DEFAULT_TIMEOUT_S: u32 = 900;
/// The least and the most it may be given, in seconds.
pub const TIMEOUT_S: std::ops::RangeInclusive<u32> = 5..=3600;
/// The longest text that is pasted, in bytes: what one line of a terminal takes (`MAX_CANON`, less its end).
pub const MAX_PASTED_BYTES: usize = 4_094;
/// The longest address of a callback, in bytes.
pub const MAX_CALLBACK_BYTES: usize = 8_192;

/// What an assistant wants back from the user who has opened its address.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Accepts {
    /// Nothing: it asks its provider until the user is done there.
    #[default]
    None,
    /// A code that the provider shows, which is typed into its terminal.
    Code,
    /// The address that the browser is sent to at the end, which is one of the machine it runs on.
    Callback,
}

impl Accepts {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Code => "code",
            Self::Callback => "callback",
        }
    }
}

impl FromStr for Accepts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::None, Self::Code, Self::Callback]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| {
                format!("{text:?} is nothing that is accepted: give none, code or callback")
            })
    }
}

/// What the user is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Invitation {
    /// The address to open.
    pub url: String,
    /// The code that the provider asks for there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the program said of what it was given before, where it asks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// Where a login stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LoginState {
    /// Its program is being started and has printed no address yet.
    Starting,
    /// The user is to open the address.
    Waiting(Invitation),
    /// The program was given what the user brought back.
    Submitting(Invitation),
    /// The credentials are stored.
    Succeeded,
    /// It came to nothing; what the program said is among the evidence.
    Failed {
        /// Why.
        fault: Fault,
    },
    /// Nobody was done in time.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
}

/// What happens to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The program shows this.
    Shown(Invitation),
    /// It was given what the user brought back.
    Submitted,
    /// It has said nothing to that.
    Unanswered,
    /// The credentials are stored.
    Stored,
    /// It cannot go on.
    Failed(Fault),
    /// Its time is over.
    Late,
    /// Somebody cancels it.
    Cancelled,
}

impl LoginState {
    /// The name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting(_) => "waiting",
            Self::Submitting(_) => "submitting",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing happens to it any more.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Starting | Self::Waiting(_) | Self::Submitting(_) => false,
            Self::Succeeded | Self::Failed { .. } | Self::Expired | Self::Cancelled => true,
        }
    }

    /// The state after `happening`; `None` where that changes nothing.
    #[must_use]
    pub fn after(&self, happening: Happening) -> Option<Self> {
        match (self, happening) {
            (state, _) if state.is_over() => None,
            (Self::Waiting(before) | Self::Submitting(before), Happening::Shown(now))
                if *before == now =>
            {
                None
            }
            (_, Happening::Shown(now)) => Some(Self::Waiting(now)),
            (Self::Waiting(what), Happening::Submitted) => {
                Some(Self::Submitting(Invitation { refusal: None, ..what.clone() }))
            }
            (Self::Submitting(what), Happening::Unanswered) => Some(Self::Waiting(what.clone())),
            (_, Happening::Submitted | Happening::Unanswered) => None,
            (_, Happening::Stored) => Some(Self::Succeeded),
            (_, Happening::Failed(fault)) => Some(Self::Failed { fault }),
            (_, Happening::Late) => Some(Self::Expired),
            (_, Happening::Cancelled) => Some(Self::Cancelled),
        }
    }
}

/// One login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Login {
    /// Its id.
    pub id: LoginId,
    /// The workspace in whose VM its program runs.
    pub workspace_id: WorkspaceId,
    /// Who logs in.
    pub assistant: AssistantName,
    /// What is wanted back from the user.
    pub accepts: Accepts,
    /// Where it stands.
    #[serde(flatten)]
    pub state: LoginState,
    /// Counts its changes, from 1.
    pub revision: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
}

/// Asks for a login.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartLogin {
    /// Who logs in; the workspace's assistant where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assistant: Option<AssistantName>,
    /// When it is given up, in seconds from now; 15 minutes where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 5, maximum = 3600)]
    pub timeout_s: Option<u32>,
}

/// Credentials of an assistant that are stored, without what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Credentials {
    /// Whose.
    pub assistant: AssistantName,
    /// When somebody first logged in.
    pub created_at: Timestamp,
    /// When somebody logged in again, or the assistant renewed them.
    pub updated_at: Timestamp,
}

/// Something a user brought back, which is not for others' eyes. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(value_type = String, max_length = 4_094)]
#[serde(transparent)]
pub struct Pasted(String);

/// Why a text cannot be what was pasted. Never says what the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one line of 1 to {MAX_PASTED_BYTES} bytes, without control characters")]
pub struct InvalidPasted;

impl Pasted {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pasted {
    type Err = InvalidPasted;

    fn from_str(text: &str) -> Result<Self, InvalidPasted> {
        let text = text.trim();
        let is_line = !text.is_empty() && !text.contains(char::is_control);
        let fits = text.len() <= MAX_PASTED_BYTES;
        if is_line && fits { Ok(Self(text.to_owned())) } else { Err(InvalidPasted) }
    }
}

impl fmt::Debug for Pasted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pasted")
    }
}

/// The address that a browser was sent to at the end, on the machine that the assistant runs on. Never
/// printed: it carries what the provider hands over.
#[derive(Clone, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, max_length = 8_192, example = "http://localhost:1455/callback?code=…")]
pub struct CallbackUrl(Loopback);

#[derive(Clone, PartialEq, Eq)]
struct Loopback {
    authority: String,
    port: u16,
    target: String,
}

/// Why a text cannot be a callback's address. Never says what the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCallback {
    /// It is too long, or has what no address has.
    #[error("must be an address of at most {MAX_CALLBACK_BYTES} bytes, without spaces")]
    Unreadable,
    /// It is no address of this kind.
    #[error("must begin with http://localhost:PORT/, http://127.0.0.1:PORT/ or http://[::1]:PORT/")]
    NotLoopback,
}

impl CallbackUrl {
    /// The port that its server listens on.
    pub const fn port(&self) -> u16 {
        self.0.port
    }

    /// The request that a browser would make of it.
    pub fn request(&self) -> String {
        let (target, authority) = (&self.0.target, &self.0.authority);
        format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    }

    /// The values of its query, which are not for others' eyes.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        let query = self.0.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').filter_map(|pair| pair.split_once('=').map(|(_, value)| value))
    }
}

impl FromStr for CallbackUrl {
    type Err = InvalidCallback;

    fn from_str(text: &str) -> Result<Self, InvalidCallback> {
        let text = text.trim();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.len() > MAX_CALLBACK_BYTES || !is_plain {
            return Err(InvalidCallback::Unreadable);
        }
        let rest = text.strip_prefix("http://").ok_or(InvalidCallback::NotLoopback)?;
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let target = target.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let hosts = ["localhost", "127.0.0.1", "[::1]"];
        let port = hosts.iter().find_map(|host| authority.strip_prefix(host));
        let port = port.ok_or(InvalidCallback::NotLoopback)?;
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => digits.parse().ok(),
            None if port.is_empty() => Some(80),
            _ => None,
        };
        let port = port.filter(|port| *port != 0).ok_or(InvalidCallback::NotLoopback)?;
        Ok(Self(Loopback { authority: authority.to_owned(), port, target }))
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackUrl({})", self.0.port)
    }
}

impl Serialize for CallbackUrl {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("http://{}{}", self.0.authority, self.0.target))
    }
}

/// Reads a text whose content no error may repeat.
fn unrepeated<'de, D: serde::Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    d: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(d).map_err(|_| serde::de::Error::custom("is not a text"))?;
    text.parse().map_err(serde::de::Error::custom)
}

impl<'de> Deserialize<'de> for Pasted {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unrepeated(d)
    }
}

impl<'de> Deserialize<'de> for CallbackUrl {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unrepeated(d)
    }
}

/// A code that the provider showed the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitCode {
    /// The code.
    pub code: Pasted,
}

/// Where the browser was sent at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitCallback {
    /// The address, as the browser's address bar has it.
    pub url: CallbackUrl,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use proptest::prelude::*;

    fn invitation(url: &str) -> Invitation {
        Invitation { url: url.to_owned(), code: None, refusal: None }
    }

    fn happenings() -> impl Strategy<Value = Happening> {
        prop_oneof![
            "[ab]".prop_map(|url| Happening::Shown(invitation(&url))),
            Just(Happening::Submitted),
            Just(Happening::Unanswered),
            Just(Happening::Stored),
            Just(Happening::Failed(Fault::new(Code::LoginFailed, "no"))),
            Just(Happening::Late),
            Just(Happening::Cancelled),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_login_ends_once_and_takes_nothing_before_it_has_asked(
            happenings in proptest::collection::vec(happenings(), 0..20),
        ) {
            let (mut state, mut asked) = (LoginState::Starting, false);
            for happening in happenings {
                asked |= matches!(happening, Happening::Shown(_));
                let next = state.after(happening.clone());
                prop_assert!(next.as_ref() != Some(&state), "a change changes something");
                if state.is_over() {
                    prop_assert_eq!(&next, &None);
                }
                state = next.unwrap_or(state);
                prop_assert!(asked || !matches!(state, LoginState::Submitting(_)));
                if matches!(happening, Happening::Late | Happening::Cancelled | Happening::Stored) {
                    prop_assert!(state.is_over());
                }
            }
        }

        #[test]
        fn a_callbacks_request_is_one_request_to_the_guest_itself(text in "(http://)?(localhost|127.0.0.1|evil.example|a@localhost)?(:[0-9]{0,6})?[/?#]?[ -~\r\n]{0,20}") {
            if let Ok(url) = text.parse::<CallbackUrl>() {
                let request = url.request();
                prop_assert_eq!(request.matches("\r\n").count(), 5);
                prop_assert!(request.starts_with("GET /") && !request.contains("evil"));
                let again = serde_json::to_value(&url).unwrap();
                prop_assert_eq!(serde_json::from_value::<CallbackUrl>(again).unwrap(), url);
            }
        }
    }

    #[test]
    fn a_program_that_asks_again_is_waited_for_again() {
        let submitting = LoginState::Submitting(invitation("a"));
        let shown = |url| Happening::Shown(invitation(url));
        assert_eq!(submitting.after(shown("b")), Some(LoginState::Waiting(invitation("b"))));
        assert_eq!(submitting.after(shown("a")), None, "what it shows all the time says nothing");
        assert_eq!(
            submitting.after(Happening::Unanswered),
            Some(LoginState::Waiting(invitation("a")))
        );
    }

    #[test]
    fn only_addresses_of_the_machine_itself_are_callbacks() {
        let url: CallbackUrl = "http://localhost:1455/cb?code=s3cret&state=x#top".parse().unwrap();
        assert_eq!((url.port(), url.values().collect::<Vec<_>>()), (1455, vec!["s3cret", "x"]));
        assert!(
            url.request()
                .starts_with("GET /cb?code=s3cret&state=x HTTP/1.1\r\nHost: localhost:1455\r\n")
        );
        assert_eq!(format!("{url:?}"), "CallbackUrl(1455)");
        assert_eq!("http://[::1]/?a=b".parse::<CallbackUrl>().unwrap().port(), 80);
        for bad in [
            "https://localhost:1/",
            "http://localhost.evil.example/",
            "http://localhost:0/",
            "",
            "http://10.0.0.1:80/",
            "http://localhost:80:90/",
            "http://u@localhost:80/",
            "http://localhost:+1/",
        ] {
            assert_eq!(bad.parse::<CallbackUrl>(), Err(InvalidCallback::NotLoopback), "{bad}");
        }
    }

    #[test]
    fn what_was_pasted_is_one_line_and_is_not_repeated() {
        assert_eq!(" s3cret#1\n".parse::<Pasted>().unwrap().reveal(), "s3cret#1");
        for bad in [
            r#"{"code":"a\u0003b"}"#,
            r#"{"code":"two\nlines"}"#,
            r#"{"code":""}"#,
            r#"{"code":7}"#,
        ] {
            let error = serde_json::from_str::<SubmitCode>(bad).unwrap_err().to_string();
            assert!(!error.contains("two") && !error.contains('7'), "{error}");
        }
    }
}
