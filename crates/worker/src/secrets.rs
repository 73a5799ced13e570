//! Secrets on their way into a guest: read for one run, in the environment of its process or in files in
//! the guest's memory, and masked in what it prints.
//!
//! A value is here from the start of its run to the end of it, and goes nowhere but to the agent. It is
//! never part of a [`Command`], which is written down.

use crate::{WorkerError, host::Host, login, run::exec_spec, vm::VmHandle};
use aetherium_agent_client::{AgentClient, AgentError};
use aetherium_agent_proto::{ExecSpec, system};
use aetherium_model::{
    Code, Fault, VmId,
    run::Command,
    secret::{Delivery, SecretKind, SecretName, SecretUses},
};
use aetherium_secrets::{Masks, SecretValue};
use aetherium_store::{ReadSecret, RunRef};
use std::{collections::BTreeMap, sync::Arc};

/// What a run's command gets beyond what its record says.
#[derive(Debug)]
pub(crate) struct Delivered {
    env: Vec<(SecretName, SecretValue)>,
    /// What is looked for in its output.
    pub(crate) masks: Masks,
}

impl Delivered {
    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Self { env: Vec::new(), masks: Masks::none() }
    }

    /// The command as the agent takes it, with its secrets' variables.
    pub(crate) fn spec(&self, command: &Command, stdin: bool) -> ExecSpec {
        let mut spec = exec_spec(command, stdin);
        for (variable, value) in &self.env {
            // Values for variables were text when they were set.
            if let Some(text) = value.reveal_text() {
                spec.env.insert(variable.to_string(), text.to_owned());
            }
        }
        spec
    }
}

/// Reads what a run's command asks for, and writes into the guest's memory what is for files.
///
/// # Errors
/// `secret_missing`, `secret_unreadable`, or `secret_not_delivered`. The command must not run then.
pub(crate) async fn deliver(
    host: &Arc<Host>,
    vm: VmId,
    agent: &AgentClient,
    run: RunRef,
    command: &Command,
) -> Result<Delivered, Fault> {
    let mut tokens = host.vms.get(vm).map(|vm| vm.given().tokens()).unwrap_or_default();
    if tokens.is_empty() && were_given(host, vm) {
        // As a VM that was woken, which has what the one before it was given.
        tokens = login::tokens_again(host, vm, run).await?;
    }
    if command.secrets.is_empty() {
        return Ok(Delivered { masks: Masks::of(&tokens), ..Delivered::nothing() });
    }
    note_given(host, vm)?;
    let read = host.queue.store().read_secrets(run, vm, &command.secrets, host.now()).await?;
    let masks = Masks::of(read.iter().map(|it| &it.value).chain(&tokens));
    let mut env = Vec::with_capacity(read.len());
    for ReadSecret { variable, secret, value } in read {
        let value = match secret.kind.delivery() {
            Delivery::Variable => value,
            Delivery::File => {
                let user = command.user.as_deref();
                let value = match secret.kind {
                    SecretKind::SshKey => as_ssh_reads_it(&value),
                    _ => value,
                };
                let path = write_file(agent, run, &variable, &value, user).await;
                let path = path.map_err(|error| not_delivered(&secret.name, &error))?;
                SecretValue::new(path.into_bytes())
            }
        };
        env.push((variable, value));
    }
    Ok(Delivered { env, masks })
}

/// A private key with each of its lines ended as on Unix, the last one too: ssh takes no other, and both get
/// lost where keys are copied.
fn as_ssh_reads_it(key: &SecretValue) -> SecretValue {
    let mut text = Vec::with_capacity(key.reveal().len() + 1);
    for line in key.reveal().split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        text.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        text.push(b'\n');
    }
    SecretValue::new(text)
}

/// The texts of some secrets of a run, by their variables, for what is written about them into the guest's
/// memory with [`write_text`].
///
/// # Errors
/// `secret_missing`, `secret_unreadable`, or `invalid_request` for one that is a file.
pub(crate) async fn texts(
    host: &Arc<Host>,
    vm: VmId,
    run: RunRef,
    uses: &SecretUses,
) -> Result<BTreeMap<String, SecretValue>, Fault> {
    if uses.is_empty() {
        return Ok(BTreeMap::new());
    }
    note_given(host, vm)?;
    let read = host.queue.store().read_secrets(run, vm, uses, host.now()).await?;
    let text = |ReadSecret { variable, secret, value }: ReadSecret| match secret.kind.delivery() {
        Delivery::Variable => Ok((variable.to_string(), value)),
        Delivery::File => {
            let detail = format!("the secret {} is a file, and no text", secret.name);
            Err(Fault::new(Code::InvalidRequest, detail).remedy("give a secret of another kind"))
        }
    };
    read.into_iter().map(text).collect()
}

/// Writes a text with secrets in it into the guest's memory, for one run and one user. Returns its path.
///
/// # Errors
/// Why not.
pub(crate) async fn write_text(
    agent: &AgentClient,
    run: RunRef,
    name: &SecretName,
    text: &SecretValue,
    user: Option<&str>,
) -> Result<String, String> {
    write_file(agent, run, name, text, user).await
}

/// Says that a VM is given secrets, before it is. The guest may have them anywhere in its memory, long after
/// their process has ended: from here on that reaches no disk in clear.
///
/// # Errors
/// It cannot be noted, and the VM must not be given any.
pub(crate) fn note_given(host: &Host, vm: VmId) -> Result<(), WorkerError> {
    let mark = host.layout.secrets_mark(vm);
    std::fs::write(&mark, []).map_err(|error| WorkerError::io(&mark, error))
}

/// Whether a VM was given secrets.
pub(crate) fn were_given(host: &Host, vm: VmId) -> bool {
    host.layout.secrets_mark(vm).exists()
}

/// Refuses to write the memory of a VM that was given secrets in clear.
///
/// # Errors
/// `conflict`.
pub(crate) fn check_memory_may_be_written(host: &Host, vm: VmId) -> Result<(), Fault> {
    if !were_given(host, vm) {
        return Ok(());
    }
    let detail = format!("{vm} was given secrets, and its memory is not written to a disk");
    Err(Fault::new(Code::Conflict, detail)
        .remedy("stop it; its disk is kept, and the next VM has none"))
}

/// What is looked for in the output of a run that an earlier process of this worker had started: the
/// values as they are now. Without them what is left of the output could not be shown.
///
/// # Errors
/// `secret_missing` or `secret_unreadable`.
pub(crate) async fn masks_again(
    host: &Arc<Host>,
    vm: VmId,
    run: RunRef,
    uses: &SecretUses,
) -> Result<Masks, Fault> {
    let tokens = login::tokens_again(host, vm, run).await?;
    if uses.is_empty() {
        return Ok(Masks::of(&tokens));
    }
    let read = host.queue.store().read_secrets(run, vm, uses, host.now()).await?;
    Ok(Masks::of(read.iter().map(|it| &it.value).chain(&tokens)))
}

/// Removes from the guest's memory what a run had in files there.
pub(crate) async fn forget(vm: &VmHandle, run: RunRef, uses: &SecretUses) {
    if uses.is_empty() || vm.state().is_terminal() {
        return;
    }
    // A VM that cannot be asked any more takes them with it.
    let Ok(agent) = vm.agent().await else { return };
    for (variable, _) in uses.iter() {
        let Ok(name) = file_name(run, variable) else { continue };
        match agent.system().remove_secret(&name).await {
            Ok(_) | Err(AgentError::Refused { .. } | AgentError::VmEnded { .. }) => {}
            Err(error) => tracing::warn!(%run, %variable, %error, "a secret's file may be left"),
        }
    }
}

async fn write_file(
    agent: &AgentClient,
    run: RunRef,
    variable: &SecretName,
    value: &SecretValue,
    user: Option<&str>,
) -> Result<String, String> {
    let name = file_name(run, variable).map_err(|error| error.to_string())?;
    let written = agent.system().write_secret(&name, value.reveal().to_vec(), user).await;
    written.map(|path| path.display().to_string()).map_err(|error| error.to_string())
}

/// The name of a file of one run's own.
fn file_name(
    run: RunRef,
    variable: &SecretName,
) -> Result<system::SecretName, system::InvalidSecretName> {
    format!("{run}.{variable}").parse()
}

fn not_delivered(name: &SecretName, error: &str) -> Fault {
    Fault::new(
        Code::SecretNotDelivered,
        format!("the secret {name} could not be written into the guest's memory: {error}"),
    )
    .remedy("secrets of files need a VM of their own, which the process driver has not; else read the VM's console")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_keeps_nothing_of_how_it_was_copied() {
        for copied in ["a\nb", "a\nb\n", "a\r\nb\r\n", "a\r\nb"] {
            let read = as_ssh_reads_it(&SecretValue::new(copied.into()));
            assert_eq!(read.reveal(), b"a\nb\n", "{copied:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_as_ssh_writes_it_is_left_as_it_is(lines in proptest::collection::vec("[ -~]{0,20}", 1..9)) {
            let key = lines.join("\n") + "\n";
            let read = as_ssh_reads_it(&SecretValue::new(key.clone().into()));
            prop_assert_eq!(read.reveal(), key.as_bytes());
        }
    }
}
