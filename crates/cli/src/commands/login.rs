//! `aetherium ws login`, `ws logins` and `ws logout`: assistants that their users log in to by a browser.
//!
//! What comes back from the browser is read from standard input, never from arguments.

use crate::{args::Args, client::Client, error::CliError, print, progress::Bars};
use aetherium_model::{
    Code, Fault,
    assistant::AssistantName,
    login::{
        Accepts, CallbackUrl, Credentials, Invitation, Login, LoginState, Pasted, StartLogin,
        SubmitCallback, SubmitCode,
    },
};
use std::{
    io::{BufRead as _, stdin},
    time::Duration,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Changes that may wait to be shown.
const CHANGES: usize = 16;

/// Logs an assistant in, and shows what its user is to do. Interrupted, it cancels the login.
pub(crate) async fn log_in(
    args: &Args,
    client: &Client,
    workspace: &str,
    assistant: Option<AssistantName>,
    timeout: Duration,
) -> Result<(), CliError> {
    let timeout_s = Some(u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
    let request = StartLogin { assistant, timeout_s };
    let bars = Bars::new();
    bars.spin("starting a VM");
    let login: Login = client.post(&format!("/workspaces/{workspace}/logins"), &request).await?;
    let path = format!("/workspaces/{}/logins/{}", login.workspace_id, login.id);
    let (changes, mut changed) = mpsc::channel(CHANGES);
    let events = format!("{path}/events");
    let mut following = std::pin::pin!(client.follow_login(&events, &changes));
    let mut lines = None;
    let mut state = LoginState::Starting;
    let mut is_followed = true;
    while !state.is_over() {
        tokio::select! {
            biased;
            Some(login) = changed.recv() => {
                bars.clear();
                show(args, &bars, &state, &login)?;
                if login.accepts != Accepts::None && matches!(login.state, LoginState::Waiting(_)) {
                    lines.get_or_insert_with(read_lines);
                }
                state = login.state;
            }
            Some(line) = next(&mut lines), if matches!(state, LoginState::Waiting(_)) => {
                if let Err(error) = submit(client, &path, login.accepts, &line).await {
                    bars.clear();
                    eprintln!("not taken: {}", error.fault());
                }
            }
            followed = &mut following, if is_followed => {
                followed?;
                is_followed = false;
            }
            _ = tokio::signal::ctrl_c() => {
                bars.clear();
                let _: Login = client.delete(&path).await?;
            }
        }
    }
    bars.clear();
    end(args, &login.assistant, state)
}

/// Shows a change.
fn show(args: &Args, bars: &Bars, before: &LoginState, login: &Login) -> Result<(), CliError> {
    if args.json {
        return print::json(login);
    }
    match &login.state {
        LoginState::Waiting(invitation) => {
            invite(before, invitation, login.accepts);
            bars.spin("waiting for the browser");
        }
        LoginState::Submitting(_) => bars.spin("waiting for the assistant"),
        _ => {}
    }
    Ok(())
}

fn invite(before: &LoginState, invitation: &Invitation, accepts: Accepts) {
    if let Some(refusal) = &invitation.refusal {
        eprintln!("the assistant says: {refusal}");
    }
    let shown = match before {
        LoginState::Waiting(shown) | LoginState::Submitting(shown) => Some(shown),
        _ => None,
    };
    if shown.is_none_or(|it| (&it.url, &it.code) != (&invitation.url, &invitation.code)) {
        println!("Open this address in a browser:\n\n  {}\n", invitation.url);
        if let Some(code) = &invitation.code {
            println!("and give it this code:\n\n  {code}\n");
        }
    }
    match accepts {
        Accepts::None => {}
        Accepts::Code => eprintln!("Paste the code that it shows in the end, and press Enter:"),
        Accepts::Callback => eprintln!(
            "It ends at an address of localhost that the browser cannot open. Paste that address, and press Enter:"
        ),
    }
}

/// Gives the login what the user brought back.
async fn submit(
    client: &Client,
    path: &str,
    accepts: Accepts,
    line: &str,
) -> Result<Login, CliError> {
    let unfit = |problem: String| {
        let detail = format!("what was pasted {problem}");
        Fault::new(Code::InvalidRequest, detail).remedy("copy it whole, and paste it again")
    };
    if accepts == Accepts::Callback {
        let url = line.parse::<CallbackUrl>().map_err(|error| unfit(error.to_string()))?;
        return client.post(&format!("{path}/callback"), &SubmitCallback { url }).await;
    }
    let code = line.parse::<Pasted>().map_err(|error| unfit(error.to_string()))?;
    client.post(&format!("{path}/code"), &SubmitCode { code }).await
}

/// Lines of standard input that have something in them. Reading cannot be given up: the thread ends
/// with the input or with the program.
fn read_lines() -> mpsc::Receiver<Zeroizing<String>> {
    let (lines, read) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            let Ok(line) = line.map(Zeroizing::new) else { return };
            if !line.trim().is_empty() && lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    read
}

async fn next(lines: &mut Option<mpsc::Receiver<Zeroizing<String>>>) -> Option<Zeroizing<String>> {
    match lines {
        Some(lines) => lines.recv().await,
        None => None,
    }
}

fn end(args: &Args, assistant: &AssistantName, state: LoginState) -> Result<(), CliError> {
    let fault = match state {
        LoginState::Failed { fault } => fault,
        LoginState::Expired => {
            Fault::new(Code::DeadlineExceeded, "nobody was done in the browser in time")
                .remedy("log in again, with a longer --timeout")
        }
        LoginState::Cancelled => Fault::new(Code::Cancelled, "the login was cancelled"),
        _ => {
            if !args.json {
                println!("{assistant} is logged in, in every workspace of the project");
            }
            return Ok(());
        }
    };
    Err(fault.into())
}

/// Lists who is logged in.
pub(crate) async fn list(args: &Args, client: &Client) -> Result<(), CliError> {
    let found: Vec<Credentials> = client.get("/logins").await?;
    if args.json {
        return print::json(&found);
    }
    let row = |it: &Credentials| {
        vec![it.assistant.to_string(), it.created_at.to_string(), it.updated_at.to_string()]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    print::table(&["ASSISTANT", "LOGGED IN", "RENEWED"], &rows);
    Ok(())
}

/// Forgets what an assistant is logged in with.
pub(crate) async fn log_out(
    args: &Args,
    client: &Client,
    assistant: &AssistantName,
) -> Result<(), CliError> {
    client.remove(&format!("/logins/{assistant}")).await?;
    if !args.json {
        println!("{assistant} is logged out");
    }
    Ok(())
}
