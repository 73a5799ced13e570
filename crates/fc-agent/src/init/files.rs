//! The guest's identity at boot.

use aetherium_agent_proto::config::GuestConfig;

use super::note;
use crate::system::identity;

/// Sets the host name and the name servers, as far as the configuration speaks of them. What fails is
/// noted: a read-only root keeps its own files.
pub(super) fn write_identity(config: &GuestConfig) {
    let named = config.hostname.as_deref().map_or(Ok(()), identity::set_hostname);
    let resolves = config.net.as_ref().map_or(Ok(()), |net| identity::set_dns(&net.dns));
    for refusal in [named, resolves].into_iter().filter_map(Result::err) {
        note(refusal.detail);
    }
}
