//! Kernel modules, loaded in the order the image's maker worked out.

use std::fs::File;
use std::path::Path;

use aetherium_agent_proto::config::{MODULES_DIR, MODULES_ORDER_PATH};
use rustix::io::Errno;
use rustix::system::finit_module;

use super::note;

/// Loads every module of the list. A module that does not load is noted: whether it mattered shows
/// when a disk or a device is missing.
pub(super) fn load_all() {
    let order = match std::fs::read_to_string(MODULES_ORDER_PATH) {
        Ok(order) => order,
        // A kernel with everything built in comes without modules.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return note(format!("{MODULES_ORDER_PATH} cannot be read: {error}")),
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = load(name) {
            note(format!("module {name} did not load: {error}"));
        }
    }
}

fn load(name: &str) -> std::io::Result<()> {
    let file = File::open(Path::new(MODULES_DIR).join(name))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
