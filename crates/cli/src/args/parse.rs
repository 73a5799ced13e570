//! Values of arguments that clap cannot read by itself.

use aetherium_model::{Name, name::InvalidName, recipe::EnvName, worker::Lease};
use std::{path::PathBuf, time::Duration};

/// Parses a file's path, taken from the present directory: a server may look for it from another.
pub(crate) fn file(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| format!("{text:?} is not a path: {error}"))
}

/// Parses `500ms`, `90s`, `15m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("{text:?} is not a time: give a whole number with ms, s, m or h, such as 90s");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let number: u64 = text[..split].parse().map_err(|_| refuse())?;
    let millis = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(refuse)
}

/// Parses how long a worker may work unheard.
pub(crate) fn lease(text: &str) -> Result<Lease, String> {
    duration(text)?.try_into()
}

/// Parses a label, `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<(Name, Name), String> {
    let (name, value) = variable(text)?;
    let read = |text: String| text.parse().map_err(|error: InvalidName| format!("{error}"));
    Ok((read(name)?, read(value)?))
}

/// Parses `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Parses `NAME=VALUE` for an environment.
pub(crate) fn env_variable(text: &str) -> Result<(EnvName, String), String> {
    let (name, value) = variable(text)?;
    Ok((name.try_into()?, value))
}

/// Parses what checks itself as it is made of a text.
pub(crate) fn of<T: TryFrom<String>>(text: &str) -> Result<T, T::Error> {
    text.to_owned().try_into()
}

/// Takes a text as it is, or what the file has that `@` names.
pub(crate) fn text_or_file(text: &str) -> Result<String, String> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), content)
}

/// Reads a file of text.
pub(crate) fn content(file: &str) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_unit_is_refused_with_an_example() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "90", "s", "-1s", "1.5s", "99999999999999999999h", "1d"] {
            assert!(duration(bad).unwrap_err().contains("90s"), "{bad:?}");
        }
    }

    #[test]
    fn a_files_path_does_not_depend_on_where_a_server_runs_later() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(file("bin/fc-agent").unwrap(), here.join("bin/fc-agent"));
        assert_eq!(file("/bin/fc-agent").unwrap(), PathBuf::from("/bin/fc-agent"));
        assert!(file("").is_err());
    }

    #[test]
    fn a_text_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "be brief").unwrap();
        let named = format!("@{}", file.path().display());
        assert_eq!(text_or_file(&named).as_deref(), Ok("be brief"));
        assert_eq!(text_or_file("be brief").as_deref(), Ok("be brief"));
        assert!(text_or_file("@/nowhere/x").unwrap_err().contains("/nowhere/x"));
    }
}
