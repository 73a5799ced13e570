//! The guest's network at boot: `lo` and a static address on the one interface.

use std::path::Path;
use std::time::Duration;

use aetherium_agent_proto::config::GuestNet;

use super::{note, poll};
use crate::system::net::{Control, INTERFACE};

/// How long the network device may take to appear after its module was loaded.
const DEADLINE: Duration = Duration::from_secs(2);

/// Brings the network up. What fails is noted: a guest may be reached over vsock all the same.
pub(super) fn bring_up(net: Option<&GuestNet>) {
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => return note(format!("no network, not even lo: {error}")),
    };
    if let Err(error) = control.up("lo") {
        note(format!("lo is down: {error}"));
    }
    let Some(net) = net else { return };
    let device = Path::new("/sys/class/net").join(INTERFACE);
    if poll(DEADLINE, || device.exists().then_some(())).is_none() {
        return note(format!("{INTERFACE} is not there after {} ms", DEADLINE.as_millis()));
    }
    if let Err(error) = control.configure(net) {
        note(format!("{INTERFACE} has no address {}: {error}", net.address_cidr));
    }
}
