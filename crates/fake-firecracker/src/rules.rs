//! Which calls there are, when each is allowed, and which fields its body may have, by version.
//!
//! A table, to be read beside Firecracker's swagger file. Pure.

use crate::{body, refusal::Refusal, version::Version};
use http::Method;
use serde_json::{Map, Value};

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    DescribeInstance,
    DescribeVersion,
    DescribeConfig,
    DescribeMachine,
    SetBootSource,
    SetCpuConfig,
    SetMachine,
    UpdateMachine,
    SetLogger,
    SetMetrics,
    SetSerial,
    SetDrive,
    UpdateDrive,
    SetNetwork,
    UpdateNetwork,
    SetVsock,
    SetEntropy,
    SetPmem,
    SetBalloon,
    DescribeBalloon,
    UpdateBalloon,
    DescribeBalloonStats,
    UpdateBalloonStats,
    SetMemoryHotplug,
    DescribeMemoryHotplug,
    UpdateMemoryHotplug,
    Act,
    SetState,
    CreateSnapshot,
    LoadSnapshot,
}

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the microVM is started.
    Before,
    /// Once it is started.
    After,
    Always,
    /// Until it is started; since 1.16 also later, if it has a PCI bus.
    BeforeOrHotplug,
}

/// A field of a body.
struct Field {
    name: &'static str,
    required: bool,
    since: Version,
}

const fn must(name: &'static str) -> Field {
    Field { name, required: true, since: Version::OLDEST }
}

const fn may(name: &'static str) -> Field {
    Field { name, required: false, since: Version::OLDEST }
}

const fn since(since: Version, name: &'static str) -> Field {
    Field { name, required: false, since }
}

/// The methods that there are calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    Patch,
}

impl Verb {
    fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET => Some(Self::Get),
            Method::PUT => Some(Self::Put),
            Method::PATCH => Some(Self::Patch),
            _ => None,
        }
    }
}

/// A call.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    verb: Verb,
    /// `{}` stands for an identifier.
    path: &'static [&'static str],
    since: Version,
    pub(crate) phase: Phase,
    pub(crate) action: Action,
    /// `None` where any object is taken.
    fields: Option<&'static [Field]>,
    /// The field that must repeat the identifier of the path.
    id_field: Option<&'static str>,
}

const fn rule(
    verb: Verb,
    path: &'static [&'static str],
    phase: Phase,
    action: Action,
    fields: &'static [Field],
) -> Rule {
    let since = Version::OLDEST;
    Rule { verb, path, since, phase, action, fields: Some(fields), id_field: None }
}

impl Rule {
    const fn named(self, id_field: &'static str) -> Self {
        Self { id_field: Some(id_field), ..self }
    }

    const fn newer(self, since: Version) -> Self {
        Self { since, ..self }
    }

    const fn any_fields(self) -> Self {
        Self { fields: None, ..self }
    }
}

const MACHINE: &[Field] = &[
    must("vcpu_count"),
    must("mem_size_mib"),
    may("smt"),
    may("cpu_template"),
    may("track_dirty_pages"),
    may("huge_pages"),
];
const MACHINE_UPDATE: &[Field] = &[
    may("vcpu_count"),
    may("mem_size_mib"),
    may("smt"),
    may("cpu_template"),
    may("track_dirty_pages"),
    may("huge_pages"),
];
const DRIVE: &[Field] = &[
    must("drive_id"),
    must("is_root_device"),
    may("partuuid"),
    may("cache_type"),
    may("is_read_only"),
    may("path_on_host"),
    may("rate_limiter"),
    may("io_engine"),
    may("socket"),
];
const NETWORK: &[Field] = &[
    must("iface_id"),
    must("host_dev_name"),
    may("guest_mac"),
    since(Version::V1_16, "mtu"),
    may("rx_rate_limiter"),
    may("tx_rate_limiter"),
];
const BALLOON: &[Field] = &[
    must("amount_mib"),
    must("deflate_on_oom"),
    may("stats_polling_interval_s"),
    since(Version::V1_14, "free_page_hinting"),
    since(Version::V1_14, "free_page_reporting"),
];
const LOGGER: &[Field] =
    &[may("log_path"), may("level"), may("show_level"), may("show_log_origin"), may("module")];
const METRICS: &[Field] =
    &[must("metrics_path"), since(Version::NEXT, "emit_id"), since(Version::NEXT, "properties")];
const LOAD: &[Field] = &[
    must("snapshot_path"),
    may("mem_file_path"),
    may("mem_backend"),
    may("enable_diff_snapshots"),
    since(Version::V1_13, "track_dirty_pages"),
    may("resume_vm"),
    since(Version::V1_12, "network_overrides"),
    since(Version::V1_16, "vsock_override"),
    since(Version::V1_16, "clock_realtime"),
    since(Version::NEXT, "huge_pages"),
];

/// Every call that is imitated.
#[rustfmt::skip]
static RULES: [Rule; 30] = {
    use Action::*;
    use Phase::*;
    use Verb::*;
    [
        rule(Get, &[""], Always, DescribeInstance, &[]),
        rule(Get, &["version"], Always, DescribeVersion, &[]),
        rule(Get, &["vm", "config"], Always, DescribeConfig, &[]),
        rule(Get, &["machine-config"], Always, DescribeMachine, &[]),
        rule(Put, &["boot-source"], Before, SetBootSource, &[must("kernel_image_path"), may("initrd_path"), may("boot_args")]),
        rule(Put, &["cpu-config"], Before, SetCpuConfig, &[]).any_fields(),
        rule(Put, &["machine-config"], Before, SetMachine, MACHINE),
        rule(Patch, &["machine-config"], Before, UpdateMachine, MACHINE_UPDATE),
        rule(Put, &["logger"], Before, SetLogger, LOGGER),
        rule(Put, &["metrics"], Before, SetMetrics, METRICS),
        rule(Put, &["serial"], Before, SetSerial, &[may("serial_out_path"), since(Version::V1_16, "rate_limiter")]).newer(Version::V1_14),
        rule(Put, &["drives", "{}"], BeforeOrHotplug, SetDrive, DRIVE).named("drive_id"),
        rule(Patch, &["drives", "{}"], After, UpdateDrive, &[must("drive_id"), may("path_on_host"), may("rate_limiter")]).named("drive_id"),
        rule(Put, &["network-interfaces", "{}"], BeforeOrHotplug, SetNetwork, NETWORK).named("iface_id"),
        rule(Patch, &["network-interfaces", "{}"], After, UpdateNetwork, &[must("iface_id"), may("rx_rate_limiter"), may("tx_rate_limiter")]).named("iface_id"),
        rule(Put, &["vsock"], Before, SetVsock, &[must("guest_cid"), must("uds_path"), may("vsock_id")]),
        rule(Put, &["entropy"], Before, SetEntropy, &[may("rate_limiter")]),
        rule(Put, &["pmem", "{}"], BeforeOrHotplug, SetPmem, &[must("id"), must("path_on_host"), may("root_device"), may("read_only"), since(Version::V1_16, "rate_limiter")]).named("id").newer(Version::V1_14),
        rule(Put, &["balloon"], Before, SetBalloon, BALLOON),
        rule(Get, &["balloon"], Always, DescribeBalloon, &[]),
        rule(Patch, &["balloon"], After, UpdateBalloon, &[must("amount_mib")]),
        rule(Get, &["balloon", "statistics"], After, DescribeBalloonStats, &[]),
        rule(Patch, &["balloon", "statistics"], After, UpdateBalloonStats, &[must("stats_polling_interval_s")]),
        rule(Put, &["hotplug", "memory"], Before, SetMemoryHotplug, &[must("total_size_mib"), may("slot_size_mib"), may("block_size_mib")]).newer(Version::V1_14),
        rule(Get, &["hotplug", "memory"], After, DescribeMemoryHotplug, &[]).newer(Version::V1_14),
        rule(Patch, &["hotplug", "memory"], After, UpdateMemoryHotplug, &[must("requested_size_mib")]).newer(Version::V1_14),
        rule(Put, &["actions"], Always, Act, &[must("action_type")]),
        rule(Patch, &["vm"], After, SetState, &[must("state")]),
        rule(Put, &["snapshot", "create"], After, CreateSnapshot, &[must("mem_file_path"), must("snapshot_path"), may("snapshot_type")]),
        rule(Put, &["snapshot", "load"], Before, LoadSnapshot, LOAD),
    ]
};

/// A call that its rule allows as such; whether it may come now is another matter.
pub(crate) struct Call {
    pub(crate) rule: &'static Rule,
    /// The identifier in the path.
    pub(crate) id: Option<String>,
    pub(crate) body: Value,
}

/// Finds the rule of a request and holds its body against it.
pub(crate) fn check(
    method: &Method,
    path: &str,
    body: &[u8],
    version: Version,
) -> Result<Call, Refusal> {
    let tokens: Vec<&str> = path.trim_start_matches('/').split_terminator('/').collect();
    let tokens = if tokens.is_empty() { vec![""] } else { tokens };
    // A method that needs a body, or must have none, is refused before its path is looked at.
    match (method, body.is_empty()) {
        (&Method::GET, false) => {
            return Err(Refusal::bad_request("GET request cannot have a body."));
        }
        (&Method::PUT, true) => return Err(Refusal::bad_request("Empty PUT request.")),
        (&Method::PATCH, true) => return Err(Refusal::bad_request("Empty PATCH request.")),
        _ => {}
    }
    let fits = |rule: &&Rule| {
        Verb::of(method) == Some(rule.verb) && rule.since <= version && fits(rule.path, &tokens)
    };
    let Some(rule) = RULES.iter().find(fits) else {
        let unknown = match (method, &tokens[..]) {
            (&Method::PUT, ["snapshot"]) => {
                return Err(Refusal::bad_request("Missing snapshot operation type."));
            }
            (&Method::PUT, ["snapshot", other, ..]) => format!("/snapshot/{other}"),
            (_, [first, ..]) => (*first).to_owned(),
            (_, []) => String::new(),
        };
        return Err(Refusal::bad_request(format!(
            "Invalid request method and/or path: {method} {unknown}."
        )));
    };
    let id = match rule.id_field {
        Some(_) => Some(identifier(tokens.get(1).copied().unwrap_or_default())?),
        None => None,
    };
    let body = match body {
        [] => Value::Null,
        bytes => parse(bytes, rule, version)?,
    };
    if let (Some(field), Some(id)) = (rule.id_field, &id)
        && body[field] != id.as_str()
    {
        let message = "The id from the path does not match the id from the body!";
        return Err(Refusal::bad_request(message));
    }
    if rule.action == Action::UpdateMachine && body.as_object().is_some_and(Map::is_empty) {
        return Err(Refusal::bad_request("Empty PATCH request."));
    }
    body::check(rule.action, &body)?;
    Ok(Call { rule, id, body })
}

fn fits(path: &[&str], tokens: &[&str]) -> bool {
    // Without its identifier a path is still the path of the call, which then misses it.
    let whole = path.len() == tokens.len() || (path.len() == 2 && path[1] == "{}");
    whole && path.iter().zip(tokens).all(|(wanted, given)| *wanted == "{}" || wanted == given)
}

fn identifier(id: &str) -> Result<String, Refusal> {
    if id.is_empty() {
        return Err(Refusal::bad_request("The ID cannot be empty."));
    }
    if !id.chars().all(|it| it == '_' || it.is_alphanumeric()) {
        let message = "API Resource IDs can only contain alphanumeric characters and underscores.";
        return Err(Refusal::bad_request(message));
    }
    Ok(id.to_owned())
}

fn parse(body: &[u8], rule: &Rule, version: Version) -> Result<Value, Refusal> {
    let body: Map<String, Value> = serde_json::from_slice(body).map_err(Refusal::body)?;
    let Some(fields) = rule.fields else { return Ok(Value::Object(body)) };
    let known: Vec<&Field> = fields.iter().filter(|field| field.since <= version).collect();
    if let Some(unknown) = body.keys().find(|key| known.iter().all(|field| field.name != **key)) {
        let names: Vec<String> = known.iter().map(|field| format!("`{}`", field.name)).collect();
        let expected = names.join(", ");
        return Err(Refusal::body(format!(
            "unknown field `{unknown}`, expected one of {expected}"
        )));
    }
    if let Some(missing) = known.iter().find(|it| it.required && !body.contains_key(it.name)) {
        return Err(Refusal::body(format!("missing field `{}`", missing.name)));
    }
    Ok(Value::Object(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, path: &str, body: &str, version: &str) -> String {
        let checked = check(&method, path, body.as_bytes(), version.parse().unwrap());
        checked.err().map(|it| it.message).unwrap_or_default()
    }

    #[test]
    fn a_call_is_known_since_its_version() {
        let serial = r#"{"serial_out_path": "/s"}"#;
        assert_eq!(refused(Method::PUT, "/serial", serial, "1.14.0"), "");
        let expected = "Invalid request method and/or path: PUT serial.";
        assert_eq!(refused(Method::PUT, "/serial", serial, "1.13.1"), expected);
    }

    #[test]
    fn a_field_is_known_since_its_version() {
        for (field, value, since, before) in [
            ("network_overrides", "[]", "1.12.0", "1.11.0"),
            ("track_dirty_pages", "true", "1.13.0", "1.12.1"),
            ("vsock_override", r#"{"uds_path": "/v"}"#, "1.16.0", "1.15.2"),
            ("clock_realtime", "true", "1.16.0", "1.15.2"),
        ] {
            let body =
                format!(r#"{{"snapshot_path": "/s", "mem_file_path": "/m", "{field}": {value}}}"#);
            assert_eq!(refused(Method::PUT, "/snapshot/load", &body, since), "");
            let said = refused(Method::PUT, "/snapshot/load", &body, before);
            assert!(
                said.contains(&format!("unknown field `{field}`, expected one of `snap")),
                "{said}"
            );
        }
    }

    #[test]
    fn paths_identifiers_and_bodies_are_held_against_each_other() {
        let drive = r#"{"drive_id": "root", "is_root_device": true}"#;
        assert_eq!(refused(Method::PUT, "/drives/root", drive, "1.16.1"), "");
        for (path, body, expected) in [
            ("/drives/data", drive, "The id from the path does not match the id from the body!"),
            ("/drives", drive, "The ID cannot be empty."),
            (
                "/drives/ro-ot",
                drive,
                "API Resource IDs can only contain alphanumeric characters and underscores.",
            ),
            ("/drives/root", "", "Empty PUT request."),
            ("/drivers/root", drive, "Invalid request method and/or path: PUT drivers."),
        ] {
            assert_eq!(refused(Method::PUT, path, body, "1.16.1"), expected);
        }
        let said = refused(Method::PUT, "/drives/root", r#"{"drive_id": "root"}"#, "1.16.1");
        assert!(said.contains("missing field `is_root_device`"), "{said}");
        assert_eq!(refused(Method::GET, "/", "{}", "1.16.1"), "GET request cannot have a body.");
    }
}
