//! What a VMM says of what it refuses, or is refused. Pure; knows the words of Firecracker and QEMU.
//!
//! Firecracker's are those of 1.7 to 1.17: each line of its log is `<time> [<id>:<thread>:<level>]
//! <text>`, and an API call that it refuses is logged as `Received Error. Status code: … Message: …`.
//! A line that is not an error of the VMM's own is never taken for one.

/// What a VMM complains about, with its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Complaint {
    /// KVM would not make or run the guest.
    Kvm(String),
    /// The kernel image is none that it can load, or does not fit.
    Kernel(String),
    /// It could not have the TAP.
    Network(String),
    /// It refused a call or its configuration for another reason.
    Api(String),
}

/// The first complaint: what comes after is its consequence.
pub(super) fn complaint(log: &[String]) -> Option<Complaint> {
    log.iter().find_map(|line| firecracker(line).or_else(|| qemu(line)))
}

fn firecracker(line: &str) -> Option<Complaint> {
    let text = error_text(line)?;
    let kvm = [
        "Error creating KVM object",
        "Missing KVM capabilities",
        "invalid KVM API version",
        "Received KVM_EXIT_FAIL_ENTRY",
        "Received KVM_EXIT_INTERNAL_ERROR",
        "KVM failed to emulate an instruction",
        "Failure during vcpu run",
        "Unexpected exit reason on vcpu run",
        "Cannot create the VM file descriptor",
        "Cannot open the VM file descriptor",
    ];
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let refused = text.strip_prefix("Received Error. Status code: ");
    let message = refused.and_then(|it| it.split_once(" Message: ")).map(|it| it.1);
    if has(&kvm) {
        return Some(Complaint::Kvm(message.unwrap_or(text).to_owned()));
    }
    let configured = text.contains("Failed to build MicroVM from Json");
    let message = message.or(configured.then_some(text)).or_else(|| unparsed(text))?.to_owned();
    Some(if has(&["Kernel Loader", "Cannot load kernel", "Invalid kernel"]) {
        Complaint::Kernel(message)
    } else if has(&["Open tap device failed", "TAP device", "tap device"]) {
        Complaint::Network(message)
    } else {
        Complaint::Api(message)
    })
}

/// A request that Firecracker could not even read; it logs the parser's words alone.
fn unparsed(text: &str) -> Option<&str> {
    ["SerdeJson(", "InvalidPathMethod(", "EmptyID", "InvalidID"]
        .iter()
        .any(|sign| text.starts_with(sign))
        .then_some(text)
}

/// The text of a line of Firecracker's log that is an error.
fn error_text(line: &str) -> Option<&str> {
    let (head, text) = line.split_once("] ")?;
    let (time, origin) = head.split_once(" [")?;
    let dated = time.starts_with("20") && time.contains('T');
    (dated && origin.ends_with(":ERROR")).then_some(text)
}

fn qemu(line: &str) -> Option<Complaint> {
    let text = match line.split_once(": ") {
        Some((program, text)) if program.starts_with("qemu") => text,
        _ => line,
    };
    let kvm = [
        "Could not access KVM kernel module",
        "failed to initialize kvm",
        "error: failed to set MSR",
        "KVM internal error",
        "kvm run failed",
    ];
    kvm.iter().any(|sign| text.starts_with(sign)).then(|| Complaint::Kvm(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Complaint> {
        complaint(&[line.to_owned()])
    }

    #[test]
    fn only_an_error_of_firecrackers_own_is_a_complaint() {
        let error = "2026-01-01T00:00:00.1 [vm:fc_api:ERROR] Received Error. Status code: 400 Bad \
                     Request. Message: Drive config error: no such file";
        assert_eq!(of(error), Some(Complaint::Api("Drive config error: no such file".to_owned())));
        assert_eq!(of(&error.replace("ERROR", "INFO")), None);
        assert_eq!(of("guest: Received Error. Status code: 400. Message: x"), None);
        assert_eq!(of("2026-01-01T00:00:00.1 [vm:main:ERROR] something else"), None);
    }

    #[test]
    fn qemus_words_about_kvm_are_known() {
        let line = "qemu-system-x86_64: failed to initialize kvm: Permission denied";
        let said = "failed to initialize kvm: Permission denied".to_owned();
        assert_eq!(of(line), Some(Complaint::Kvm(said)));
        assert_eq!(
            of("KVM internal error. Suberror: 1"),
            Some(Complaint::Kvm("KVM internal error. Suberror: 1".to_owned()))
        );
        assert_eq!(of("qemu-system-x86_64: terminating on signal 15"), None);
    }
}
