//! `aetherium run` and `aetherium exec`: one command, live, with its own exit code.

use super::{exit_code, vm};
use crate::{
    args::{Args, CommandArgs, ExecArgs, RunArgs},
    attach::{self, EXIT_SYSTEM, Input, Terminal},
    client::Client,
    datadir::DataDir,
    error::CliError,
    server::{Server, ServerConfig},
    stdio::{self, EXIT_NO_READER},
};
use aetherium_model::{Code, Fault, run::Command, task::Task, vm::Vm};
use std::process::ExitCode;

pub(crate) async fn exec(args: &Args, exec: &ExecArgs) -> Result<ExitCode, CliError> {
    let client = Client::connect(args).map_err(|error| error.exiting_with(EXIT_SYSTEM))?;
    let command = checked(exec.command.command())?;
    attached(&client, &format!("vms/{}", exec.vm), &command).await
}

/// The same in a workspace, as its prompts are run.
pub(crate) async fn in_workspace(
    client: &Client,
    workspace: &str,
    command: &CommandArgs,
) -> Result<ExitCode, CliError> {
    let command = checked(command.command())?;
    attached(client, &format!("workspaces/{workspace}"), &command).await
}

async fn attached(client: &Client, place: &str, command: &Command) -> Result<ExitCode, CliError> {
    let mut terminal = Terminal::quiet();
    let end = attach::run(client, place, command, Input::Standard, &mut terminal).await?;
    Ok(exit_code(end.exit_code))
}

pub(crate) async fn run(args: &Args, run: &RunArgs) -> Result<ExitCode, CliError> {
    let command = checked(run.command.command())?;
    let failed = |error: CliError| error.exiting_with(EXIT_SYSTEM);
    if let Some(client) = running_server(args).await? {
        return run_on(&client, run, &command).await;
    }
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let server =
        Server::start(ServerConfig::private(data, run.driver.clone())).await.map_err(failed)?;
    let ended = run_on(&server.client()?, run, &command).await;
    server.stop().await;
    ended
}

/// The server that was named, or that runs on the data directory, if one does.
async fn running_server(args: &Args) -> Result<Option<Client>, CliError> {
    match Client::connect(args) {
        Ok(client) if args.url.is_some() || client.is_up().await => Ok(Some(client)),
        Err(error) if args.url.is_some() => Err(error.exiting_with(EXIT_SYSTEM)),
        _ => Ok(None),
    }
}

/// Boots a VM, runs the command in it, and ends the VM whatever came of it.
async fn run_on(client: &Client, run: &RunArgs, command: &Command) -> Result<ExitCode, CliError> {
    let mut terminal = Terminal::waiting("booting a VM");
    let vm: Vm = client
        .post_within(run.vm.placement.patience(), "/vms", &vm::request(&run.vm))
        .await
        .map_err(|error| error.exiting_with(EXIT_SYSTEM))?;
    let id = vm.id.to_string();
    let place = format!("vms/{id}");
    let ended = tokio::select! {
        ended = attach::run(client, &place, command, Input::Standard, &mut terminal) => {
            ended.map(|end| exit_code(end.exit_code))
        }
        () = stdio::reader_gone() => Ok(EXIT_NO_READER.into()),
    };
    drop(terminal);
    if let Err(error) = client.delete::<Task>(&format!("/vms/{id}")).await
        && error.fault().code != Code::NotFound
    {
        error.print();
    }
    ended
}

fn checked(command: Command) -> Result<Command, CliError> {
    match command.validate() {
        Ok(()) => Ok(command),
        Err(error) => {
            Err(CliError::new(Fault::new(Code::InvalidRequest, error.to_string())).exiting_with(2))
        }
    }
}
