//! `aetherium secret …`: secrets. A value comes from standard input or a file, never as an argument, which
//! everybody on the machine could read.

use super::{more, page};
use crate::{
    args::{Args, KeysArgs, RoleKeysArgs, RotateArgs, SecretCommand},
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
    print, server,
};
use aetherium_gateway::api::PutSecret;
use aetherium_model::{
    Code, Fault,
    page::Page,
    secret::{Delivery, MAX_VALUE_BYTES, Secret, SecretKind, SecretName},
};
use aetherium_secrets::{MasterKeys, SecretValue};
use serde::Serialize;
use std::{
    fs::File,
    io::{IsTerminal as _, Read, stdin},
    path::Path,
};
use zeroize::Zeroizing;

pub(crate) async fn dispatch(args: &Args, verb: &SecretCommand) -> Result<(), CliError> {
    match verb {
        SecretCommand::Set { name, workspace, kind, from_file } => {
            let value = value(*kind, from_file.as_deref())?;
            kind.check(value.reveal()).map_err(|error| refused(name, &error.to_string()))?;
            let request = PutSecret::new(name.clone(), *kind, &value);
            let path = path(workspace.as_deref());
            let secret: Secret = Client::connect(args)?.post(&path, &request).await?;
            if args.json {
                return print::json(&secret);
            }
            println!("{} {}", secret.id, secret.name);
        }
        SecretCommand::List { workspace, list } => {
            let path = format!("{}?{}", path(workspace.as_deref()), page(list));
            let found: Page<Secret> = Client::connect(args)?.get(&path).await?;
            if args.json {
                return print::json(&found);
            }
            let row = |it: &Secret| {
                let (kind, at) = (it.kind.to_string(), it.updated_at.to_string());
                vec![it.name.to_string(), kind, at, it.key_id.clone()]
            };
            let rows: Vec<_> = found.items.iter().map(row).collect();
            print::table(&["NAME", "KIND", "SET", "KEY"], &rows);
            more(found.next_cursor.as_ref());
        }
        SecretCommand::Delete { name, workspace } => {
            let path = format!("{}/{name}", path(workspace.as_deref()));
            Client::connect(args)?.remove(&path).await?;
            if !args.json {
                println!("{name} is gone");
            }
        }
        SecretCommand::Rotate(wanted) => rotate(args, wanted).await?,
    }
    Ok(())
}

fn path(workspace: Option<&str>) -> String {
    match workspace {
        Some(workspace) => format!("/workspaces/{workspace}/secrets"),
        None => "/secrets".to_owned(),
    }
}

/// Reads a value. What is for a variable loses the line break that the program before added.
fn value(kind: SecretKind, file: Option<&Path>) -> Result<SecretValue, CliError> {
    let mut bytes = match file {
        Some(path) => {
            let unreadable = |error| local(format!("cannot read {}", path.display()), error);
            read(File::open(path).map_err(unreadable)?).map_err(unreadable)?
        }
        None => {
            if stdin().is_terminal() {
                eprintln!("type the value, which is shown; Ctrl-D ends it");
            }
            read(stdin()).map_err(|error| local("cannot read standard input", error))?
        }
    };
    if kind.delivery() == Delivery::Variable && bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(SecretValue::new(std::mem::take(&mut *bytes)))
}

fn read(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // With room for all of it: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE_BYTES + 2));
    from.take(MAX_VALUE_BYTES as u64 + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn refused(name: &SecretName, problem: &str) -> Fault {
    Fault::new(Code::InvalidRequest, format!("the value for {name} {problem}"))
        .remedy("give another value, or another --kind")
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Rotated {
    /// The master key that everything is under now.
    key_id: String,
    /// How many were not before.
    rewrapped: u64,
}

async fn rotate(args: &Args, wanted: &RotateArgs) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let keys = match wanted.keys.load()? {
        Some(keys) => keys,
        None => data.secrets_keys()?,
    };
    let key_id = keys.newest().to_string();
    let store = Box::pin(server::open_database(&data, &wanted.database)).await?;
    let store = store.with_keys(keys);
    let done = store.rotate_secrets(u64::MAX).await.map_err(Fault::from)?;
    store.close().await;
    if !done.failed.is_empty() {
        let rows = done.failed.iter().map(|(id, why)| format!("{id}: {why}"));
        let detail = format!("{} were brought under {key_id}, these were not", done.rewrapped);
        return Err(Fault::new(Code::SecretUnreadable, detail)
            .remedy("add the keys they are under to the file and begin again, or set them anew")
            .evidence(rows)
            .into());
    }
    if args.json {
        return print::json(&Rotated { key_id, rewrapped: done.rewrapped });
    }
    println!("every secret is under {key_id}: {} were not before", done.rewrapped);
    Ok(())
}

impl KeysArgs {
    /// The keys of the file, if one was named.
    pub(crate) fn load(&self) -> Result<Option<MasterKeys>, CliError> {
        self.secrets_keys_file.as_deref().map(load_keys).transpose()
    }
}

impl RoleKeysArgs {
    /// The keys of the file, without which a role starts for trying things out alone.
    pub(crate) fn load(&self) -> Result<Option<MasterKeys>, CliError> {
        match self.keys.load()? {
            None if !self.dev => Err(Fault::new(
                Code::InvalidRequest,
                "no master keys are named, and so secrets could not be kept",
            )
            .remedy(
                "make one with `echo \"k1:$(openssl rand -base64 32)\" > secrets-keys`, and give the \
                 file to every gateway and worker with --secrets-keys-file; or say --dev",
            )
            .into()),
            keys => Ok(keys),
        }
    }
}

/// Reads master keys from a file.
pub(crate) fn load_keys(path: &Path) -> Result<MasterKeys, CliError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| local(format!("cannot read {}", path.display()), error))?;
    MasterKeys::parse(&text).map_err(|error| {
        Fault::new(Code::InvalidRequest, format!("the master keys of {}: {error}", path.display()))
            .remedy("write one `ID:BASE64` a line, such as `echo \"k1:$(openssl rand -base64 32)\"` makes")
            .into()
    })
}
