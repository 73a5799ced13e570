//! Comparing messages with their bytes on record.

use std::fmt::Write as _;
use std::path::Path;

/// Compares messages, by name and in hexadecimal, with a file. `UPDATE_GOLDEN=1` writes it anew.
pub(crate) fn compare_messages<'a>(
    file: &str,
    messages: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
) {
    let mut actual = String::new();
    for (name, bytes) in messages {
        write!(actual, "{name} ").unwrap();
        bytes.iter().for_each(|byte| write!(actual, "{byte:02x}").unwrap());
        actual.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expected == actual, "{file} differs; expected:\n{expected}\nactual:\n{actual}");
}
