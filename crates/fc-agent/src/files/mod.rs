//! Files of the guest: read, written, listed, changed, watched, packed.
//!
//! ```text
//! service ──► Actor (a thread with the user's rights) ──► read │ write │ list │ change │ tar
//!        └──► watch (inotify, on the runtime)
//! ```
//!
//! Owns what a failed operation leaves behind: nothing, or what its request says. Must never hold
//! a whole file in memory, and never follow a symbolic link where it removes or unpacks.

mod change;
mod info;
mod list;
mod read;
mod service;
mod tar_in;
mod tar_out;
mod tar_path;
mod watch;
mod watch_tree;
mod write;

use std::path::PathBuf;

use aetherium_agent_proto::rpc::files::path_from_wire;
use aetherium_agent_proto::{Refusal, RefusalKind};

pub(crate) use service::FileVerbs;

/// How many parts of a stream wait for its reader, beside the one in hand.
const QUEUE: usize = 2;

/// A path as a request may name it.
fn absolute(bytes: Vec<u8>) -> Result<PathBuf, Refusal> {
    let path = path_from_wire(bytes);
    let problem = if !path.is_absolute() {
        "is not absolute; begin it with /"
    } else if path.as_os_str().as_encoded_bytes().contains(&0) {
        "holds a zero byte; remove it"
    } else {
        return Ok(path);
    };
    Err(Refusal::new(RefusalKind::InvalidRequest, format!("path {path:?} {problem}")))
}
