//! The recipe of a template that has some tools.

use super::{Install, Tools, Way};
use aetherium_model::{
    TemplateRef,
    recipe::{
        Base, BuildVm, EnvName, Few, FileCopy, FileSource, GuestPath, Inline, Program, Recipe,
        RunStep, Sizes,
    },
    resources::{DiskMib, NetworkMode},
    setup::ToolRef,
};
use std::collections::BTreeMap;

/// The PATH of a guest's commands where nobody says another, as its agent has it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where login shells, which set a PATH of their own, find the tools' environment.
const PROFILE: &str = "/etc/profile.d/aetherium-tools.sh";
/// Room for what the steps write, in MiB. It is sparse.
const ROOM_MIB: u32 = 16_384;

/// What tools are put into.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The template, by its digest.
    pub base: &'a TemplateRef,
    /// The environment that it gives to commands.
    pub env: &'a BTreeMap<String, String>,
}

impl Tools {
    /// How a template is made that has what `ground` has, these tools, and an assistant that is
    /// installed so. None where there is nothing to add. Tools that there are not are left out: see
    /// [`Tools::check`].
    ///
    /// # Errors
    /// There is more to do than a recipe can hold.
    pub fn derive(
        &self,
        ground: Ground<'_>,
        tools: &[ToolRef],
        assistant: Option<(&str, &Install)>,
    ) -> Result<Option<Recipe>, String> {
        let required = assistant.iter().flat_map(|(_, install)| &install.requires);
        // What the user asks for goes before what the assistant would have: the last counts.
        let chosen = self.choose(required.chain(tools));
        let mut parts: Vec<(Way<'_>, RunStep)> = Vec::new();
        for it in &chosen {
            let label = match it.version {
                Some(version) => format!("tool {}@{version}", it.tool.name),
                None => format!("tool {}", it.tool.name),
            };
            let script = it.way.script(&it.tool.name, Some(&it.tool.check));
            parts.push((it.way, step(label, script)));
        }
        if let Some((name, install)) = assistant {
            let way = Way::Script(install, None);
            let label = format!("assistant {name}");
            parts.push((way, step(label, way.script(name, None))));
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let installs = parts.iter().filter_map(|(way, _)| match way {
            Way::Script(install, _) => Some(*install),
            Way::Packages(_) => None,
        });
        let installs: Vec<&Install> = installs.collect();
        let env = env(ground, &installs)?;
        let open = parts.iter().any(|(way, _)| way.network() == NetworkMode::Egress);
        let network = if open { NetworkMode::Egress } else { NetworkMode::Isolated };
        let disk_mib = DiskMib::try_from(ROOM_MIB).map_err(|error| error.to_string())?;
        let steps: Vec<RunStep> = parts.into_iter().map(|(_, step)| step).collect();
        let recipe = Recipe {
            base: Base::Template(ground.base.clone()),
            packages: Few::default(),
            files: profile(&env)?,
            env,
            run: steps.try_into()?,
            start: None,
            ready: None,
            init: None,
            resources: Sizes::default(),
            user: None,
            workdir: None,
            build: BuildVm { vcpus: None, memory_mib: None, disk_mib: Some(disk_mib), network },
        };
        Ok(Some(recipe))
    }
}

fn step(name: String, script: String) -> RunStep {
    let command = Program::Shell(script);
    RunStep { name: Some(name), command, user: None, cwd: None, timeout_s: None }
}

/// What the tools set, with their directories before those of the base's PATH.
fn env(ground: Ground<'_>, installs: &[&Install]) -> Result<BTreeMap<EnvName, String>, String> {
    let mut env = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    for install in installs {
        env.extend(install.env.clone());
        for dir in install.path.iter().map(GuestPath::as_str) {
            if !path.contains(&dir) {
                path.push(dir);
            }
        }
    }
    if !path.is_empty() {
        path.push(ground.env.get("PATH").map_or(DEFAULT_PATH, String::as_str));
        env.insert(EnvName::try_from("PATH".to_owned())?, path.join(":"));
    }
    Ok(env)
}

/// The same for login shells.
fn profile(env: &BTreeMap<EnvName, String>) -> Result<Few<FileCopy>, String> {
    if env.is_empty() {
        return Ok(Few::default());
    }
    let line = |(name, value): (&EnvName, &String)| {
        format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
    };
    let text: String = env.iter().map(line).collect();
    let file = FileCopy {
        source: FileSource::Inline(Inline::Text(text)),
        dest: GuestPath::try_from(PROFILE.to_owned())?,
        mode: None,
        owner: None,
    };
    vec![file].try_into()
}
