//! `aetherium assistant …`: what answers the prompts of workspaces.

use crate::{
    args::{Args, AssistantCommand},
    client::Client,
    error::CliError,
    print,
};
use aetherium_gateway::api::Assistant;
use aetherium_model::{assistant::PermissionMode, page::Page};

pub(crate) async fn dispatch(args: &Args, verb: &AssistantCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        AssistantCommand::List => {
            let found: Page<Assistant> = client.get("/assistants").await?;
            if args.json {
                return print::json(&found);
            }
            let row =
                |it: &Assistant| vec![it.name.to_string(), credentials(it), it.description.clone()];
            let rows: Vec<_> = found.items.iter().map(row).collect();
            print::table(&["NAME", "CREDENTIALS", "WHAT IT IS"], &rows);
        }
        AssistantCommand::Show { assistant } => {
            let found: Assistant = client.get(&format!("/assistants/{assistant}")).await?;
            if args.json {
                return print::json(&found);
            }
            show(&found);
        }
    }
    Ok(())
}

fn show(it: &Assistant) {
    println!("{}: {}", it.name, it.description);
    let line = |what: &str, text: &str| println!("  {what:<12}{text}");
    let yes = |it: bool| if it { "yes" } else { "no" };
    line("credentials", &credentials(it));
    line("user", it.user.as_deref().unwrap_or("who the template says"));
    line("permissions", &permissions(it));
    line("model", if it.takes_model { "may be chosen" } else { "none" });
    line("sessions", yes(it.has_sessions));
    line("events", yes(it.has_events));
    line("MCP servers", yes(it.takes_mcp_servers));
    if !it.tools.is_empty() {
        line("comes with", &it.tools.join(", "));
    }
}

fn credentials(it: &Assistant) -> String {
    let secrets = it.credentials.iter().map(|it| it.secret.to_string());
    let ways: Vec<_> = secrets.chain(it.has_login.then(|| "a login".to_owned())).collect();
    match ways.as_slice() {
        [] => "none".to_owned(),
        ways if it.works_without_credentials => format!("{}, or none", ways.join(", ")),
        ways => ways.join(" or "),
    }
}

fn permissions(it: &Assistant) -> String {
    let name = |mode: &PermissionMode| match it.default_permission_mode {
        Some(default) if default == *mode => format!("{} (default)", mode.as_str()),
        _ => mode.as_str().to_owned(),
    };
    let names: Vec<_> = it.permission_modes.iter().map(name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
