//! The recipe of a template that has some tools.

use super::{Script, ToolDefinition, Tools, set::Chosen};
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

/// What else is put into a template, after the tools: an assistant.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    /// Its name.
    pub name: &'a str,
    /// The tools that it needs.
    pub tools: &'a [ToolRef],
    /// Lines for the guest's `/bin/sh`, run in order by root.
    pub run: &'a [String],
    /// A line for the same that succeeds where it is installed.
    pub check: Option<&'a str>,
}

impl Addition<'_> {
    /// The same where the template has it: nothing is installed, and only looked for.
    #[must_use]
    pub const fn looked_for(self) -> Option<Self> {
        match self.check {
            Some(_) if !self.run.is_empty() => Some(Self { tools: &[], run: &[], ..self }),
            _ => None,
        }
    }

    const fn is_nothing(&self) -> bool {
        self.run.is_empty() && self.check.is_none()
    }

    /// What its script must be able to reach.
    const fn network(&self) -> NetworkMode {
        if self.run.is_empty() { NetworkMode::Isolated } else { NetworkMode::Egress }
    }

    fn script(&self) -> String {
        let mut text = String::from("set -eu\n");
        self.run.iter().for_each(|line| text.extend([line, "\n"]));
        self.check.iter().for_each(|line| text.extend([line, "\n"]));
        text
    }
}

impl Tools {
    /// How a template is made that has what `ground` has, these tools, and `more`. None
    /// where there is nothing to add. Tools that there are not are left out: see
    /// [`Tools::check`].
    ///
    /// # Errors
    /// There is more to do than a recipe can hold.
    pub fn derive(
        &self,
        ground: Ground<'_>,
        tools: &[ToolRef],
        more: Option<Addition<'_>>,
    ) -> Result<Option<Recipe>, String> {
        // What the user asks for goes before what an assistant would have: the last counts.
        let needed = more.map_or(&[][..], |it| it.tools);
        self.check(needed)
            .map_err(|problems| format!("an assistant needs what is not there: {problems}"))?;
        let chosen = self.choose(needed.iter().chain(tools));
        let mut steps: Vec<RunStep> = chosen.iter().map(Chosen::step).collect();
        let more = more.filter(|it| !it.is_nothing());
        steps.extend(more.map(|it| step(format!("assistant {}", it.name), it.script())));
        if steps.is_empty() {
            return Ok(None);
        }
        let scripts: Vec<&Script> = chosen.iter().filter_map(|it| it.way.own_script()).collect();
        let env = env(ground, &scripts)?;
        let open = more.is_some_and(|it| it.network() == NetworkMode::Egress)
            || chosen.iter().any(|it| it.way.network() == NetworkMode::Egress);
        let network = if open { NetworkMode::Egress } else { NetworkMode::Isolated };
        let disk_mib = DiskMib::try_from(ROOM_MIB)?;
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

impl Chosen<'_> {
    fn step(&self) -> RunStep {
        let ToolDefinition { name, check, .. } = self.tool;
        let asked = ToolRef { name: name.clone(), version: self.version.map(str::to_owned) };
        step(format!("tool {asked}"), self.way.script(name, check))
    }
}

fn step(name: String, script: String) -> RunStep {
    let command = Program::Shell(script);
    RunStep { name: Some(name), command, user: None, cwd: None, timeout_s: None }
}

/// What the tools set, with their directories before those of the base's PATH.
fn env(ground: Ground<'_>, scripts: &[&Script]) -> Result<BTreeMap<EnvName, String>, String> {
    let mut env = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    for script in scripts {
        env.extend(script.env.clone());
        for dir in script.path.iter().map(GuestPath::as_str) {
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
