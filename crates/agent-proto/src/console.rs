//! The lines an init writes to its console, and how a host reads them.
//!
//! One line per fact, made for a machine and legible to a person:
//!
//! ```text
//! aetherium-init: stage=root uptime_ms=412
//! aetherium-init: note detail="module virtio_rng.ko did not load: ENOEXEC"
//! aetherium-init: probe uptime_ms=390
//! aetherium-init: fatal code=root_not_found detail="…" seen="vda:ext4:LABEL:UUID,vdb:::"
//! aetherium-init: power-off
//! ```
//!
//! A console is shared with a kernel that may write in front of a line, so a reader looks for
//! [`MARKER`] anywhere in it.

use std::fmt;

/// What every line of the init starts with.
pub const MARKER: &str = "aetherium-init: ";

/// How far a boot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The init runs.
    Start,
    /// The kernel modules are loaded.
    Modules,
    /// The root file system is mounted.
    Root,
    /// The root file system is `/`.
    Switch,
    /// The network is up.
    Net,
    /// The agent listens.
    Listening,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::Start, Self::Modules, Self::Root, Self::Switch, Self::Net, Self::Listening];

    /// The stable name, as in `listening`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Modules => "modules",
            Self::Root => "root",
            Self::Switch => "switch",
            Self::Net => "net",
            Self::Listening => "listening",
        }
    }
}

/// Why a boot cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FatalCode {
    /// The initramfs has no configuration.
    ConfigMissing,
    /// The configuration cannot be read or lacks something.
    ConfigInvalid,
    /// A kernel file system cannot be mounted.
    MountFailed,
    /// No disk carries the root asked for, within the deadline.
    RootNotFound,
    /// The root disk is there and does not mount.
    RootMountFailed,
    /// No disk carries the overlay asked for, within the deadline.
    OverlayNotFound,
    /// The overlay disk is there and does not mount over the root.
    OverlayFailed,
    /// The root cannot become `/`.
    SwitchFailed,
    /// The image's own init cannot be handed over to.
    HandOverFailed,
    /// No transport can listen.
    ListenFailed,
    /// The agent itself failed.
    Internal,
}

impl FatalCode {
    const ALL: [Self; 11] = [
        Self::ConfigMissing,
        Self::ConfigInvalid,
        Self::MountFailed,
        Self::RootNotFound,
        Self::RootMountFailed,
        Self::OverlayNotFound,
        Self::OverlayFailed,
        Self::SwitchFailed,
        Self::HandOverFailed,
        Self::ListenFailed,
        Self::Internal,
    ];

    /// The stable code, as in `root_not_found`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMissing => "config_missing",
            Self::ConfigInvalid => "config_invalid",
            Self::MountFailed => "mount_failed",
            Self::RootNotFound => "root_not_found",
            Self::RootMountFailed => "root_mount_failed",
            Self::OverlayNotFound => "overlay_not_found",
            Self::OverlayFailed => "overlay_failed",
            Self::SwitchFailed => "switch_failed",
            Self::HandOverFailed => "hand_over_failed",
            Self::ListenFailed => "listen_failed",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FatalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A block device as an init saw it. Empty fields are not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenDisk {
    /// The kernel's name, as in `vda`.
    pub name: String,
    /// The file system, as in `ext4`.
    pub fstype: String,
    /// The file system's label.
    pub label: String,
    /// The file system's UUID.
    pub uuid: String,
}

/// One line of an init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleLine {
    /// A stage was reached, this many milliseconds after the kernel started.
    Stage {
        /// The stage.
        stage: Stage,
        /// Milliseconds since the kernel started.
        uptime_ms: u64,
    },
    /// Something went wrong that the boot can live with.
    Note {
        /// What it was.
        detail: String,
    },
    /// A probe guest came up.
    Probe {
        /// Milliseconds since the kernel started.
        uptime_ms: u64,
    },
    /// The boot ends here; the guest powers off.
    Fatal {
        /// Why.
        code: FatalCode,
        /// What happened, with values.
        detail: String,
        /// The disks that were there.
        seen: Vec<SeenDisk>,
    },
    /// The guest powers off as asked.
    PowerOff,
}

impl fmt::Display for ConsoleLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARKER)?;
        match self {
            Self::Stage { stage, uptime_ms } => {
                write!(f, "stage={} uptime_ms={uptime_ms}", stage.as_str())
            }
            Self::Note { detail } => write!(f, "note detail={}", Quoted(detail)),
            Self::Probe { uptime_ms } => write!(f, "probe uptime_ms={uptime_ms}"),
            Self::Fatal { code, detail, seen } => {
                let seen: Vec<String> = seen.iter().map(SeenDisk::to_text).collect();
                let (detail, seen) = (Quoted(detail), seen.join(","));
                write!(f, "fatal code={code} detail={detail} seen={}", Quoted(&seen))
            }
            Self::PowerOff => f.write_str("power-off"),
        }
    }
}

impl ConsoleLine {
    /// Reads a console line; `None` if it holds no line of the init, or one this build cannot read.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(MARKER)?;
        let (word, rest) = split_word(rest.trim_end());
        match word {
            "note" => Some(Self::Note { detail: field(rest, "detail")? }),
            "probe" => Some(Self::Probe { uptime_ms: field(rest, "uptime_ms")?.parse().ok()? }),
            "fatal" => {
                let code = field(rest, "code")?;
                Some(Self::Fatal {
                    code: FatalCode::ALL.into_iter().find(|it| it.as_str() == code)?,
                    detail: field(rest, "detail")?,
                    seen: field(rest, "seen").map(|it| SeenDisk::list(&it)).unwrap_or_default(),
                })
            }
            "power-off" => Some(Self::PowerOff),
            _ => {
                let name = word.strip_prefix("stage=")?;
                Some(Self::Stage {
                    stage: Stage::ALL.into_iter().find(|it| it.as_str() == name)?,
                    uptime_ms: field(rest, "uptime_ms")?.parse().ok()?,
                })
            }
        }
    }
}

impl SeenDisk {
    fn to_text(&self) -> String {
        // A label may hold the separators; they mean nothing to a reader of a failure report.
        let clean = |text: &str| text.replace([':', ','], "_");
        let label = clean(&self.label);
        format!("{}:{}:{label}:{}", self.name, self.fstype, self.uuid)
    }

    fn list(text: &str) -> Vec<Self> {
        text.split(',')
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let mut parts = entry.split(':').map(str::to_owned);
                let mut next = || parts.next().unwrap_or_default();
                Self { name: next(), fstype: next(), label: next(), uuid: next() }
            })
            .collect()
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        f.write_char('"')?;
        for symbol in self.0.chars() {
            match symbol {
                '"' | '\\' => write!(f, "\\{symbol}")?,
                _ if symbol.is_control() => f.write_char(' ')?,
                _ => f.write_char(symbol)?,
            }
        }
        f.write_char('"')
    }
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// The value of `key=value` or `key="quoted value"` in a line of such fields.
fn field(mut text: &str, key: &str) -> Option<String> {
    loop {
        let (name, rest) = text.trim_start().split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (word, rest) = split_word(rest);
                (word.to_owned(), rest)
            }
        };
        if name == key {
            return Some(value);
        }
        text = rest;
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut symbols = text.char_indices();
    while let Some((at, symbol)) = symbols.next() {
        match symbol {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(symbols.next()?.1),
            _ => value.push(symbol),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_are_what_the_module_says() {
        let stage = ConsoleLine::Stage { stage: Stage::Root, uptime_ms: 412 };
        assert_eq!(stage.to_string(), "aetherium-init: stage=root uptime_ms=412");
        let fatal = ConsoleLine::Fatal {
            code: FatalCode::RootNotFound,
            detail: "no disk has label=\"root\" after 5000 ms".to_owned(),
            seen: vec![
                SeenDisk {
                    name: "vda".into(),
                    fstype: "ext4".into(),
                    label: "other".into(),
                    uuid: "u-1".into(),
                },
                SeenDisk { name: "vdb".into(), ..SeenDisk::default() },
            ],
        };
        assert_eq!(
            fatal.to_string(),
            "aetherium-init: fatal code=root_not_found detail=\"no disk has label=\\\"root\\\" \
             after 5000 ms\" seen=\"vda:ext4:other:u-1,vdb:::\""
        );
    }

    #[test]
    fn a_line_is_found_behind_what_the_kernel_wrote() {
        let line = "[    0.41] random: aetherium-init: stage=listening uptime_ms=98\r";
        let expected = ConsoleLine::Stage { stage: Stage::Listening, uptime_ms: 98 };
        assert_eq!(ConsoleLine::parse(line), Some(expected));
    }

    #[test]
    fn other_lines_and_cut_lines_are_nothing() {
        for line in ["", "Kernel panic", "aetherium-init: ", "aetherium-init: fatal code=x", "x="] {
            assert_eq!(ConsoleLine::parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_fatal_line_reads_back_whatever_its_detail(detail in "[^\\p{Cc}]{0,80}") {
            let line = ConsoleLine::Fatal { code: FatalCode::Internal, detail, seen: vec![] };
            prop_assert_eq!(ConsoleLine::parse(&line.to_string()), Some(line));
        }

        #[test]
        fn no_text_makes_the_reader_fail(text in "\\PC{0,80}") {
            let _ = ConsoleLine::parse(&format!("{MARKER}{text}"));
        }
    }
}
