//! Recipes of tools, and their scripts as a shell runs them, with package managers that only tell how
//! they were called.

use super::{Addition, Ground, Others, Tools, Versions};
use aetherium_model::{
    TemplateRef,
    recipe::{Program, Recipe},
    resources::NetworkMode,
    setup::ToolRef,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

fn base() -> TemplateRef {
    format!("default@sha256:{}", "ab".repeat(32)).parse().unwrap()
}

fn recipe_on(tools: &Tools, asked: &[&str], env: &[(&str, &str)]) -> Option<Recipe> {
    let asked: Vec<ToolRef> = asked.iter().map(|it| it.parse().unwrap()).collect();
    let env: BTreeMap<_, _> = env.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    tools.derive(Ground { base: &base(), env: &env }, &asked, None).unwrap()
}

fn recipe(asked: &[&str]) -> Recipe {
    recipe_on(&Tools::built_in(), asked, &[]).unwrap()
}

fn labels(recipe: &Recipe) -> Vec<&str> {
    recipe.run.iter().map(|it| it.name.as_deref().unwrap()).collect()
}

/// Runs the scripts of a recipe in a directory that has these programs, besides `sh`, and what each
/// writes to the file `called`.
fn played(recipe: &Recipe, programs: &[&str]) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    symlink("/bin/sh", dir.path().join("sh")).unwrap();
    let called = dir.path().join("called");
    for program in programs {
        let place = dir.path().join(program);
        fs::write(&place, format!("#!/bin/sh\necho {program} \"$@\" >>{}\n", called.display()))
            .unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut last = None;
    for step in recipe.run.iter() {
        let Program::Shell(script) = &step.command else { panic!("{step:?}") };
        let output = shell(dir.path(), script);
        let ended = !output.status.success();
        last = Some(output);
        if ended {
            break;
        }
    }
    let called = fs::read_to_string(called).unwrap_or_default();
    // Of what the shell makes of `*` no test is to know.
    let told = called.lines().map(|it| if it.starts_with("rm ") { "rm" } else { it });
    (last.unwrap(), told.flat_map(|it| [it, "\n"]).collect())
}

fn shell(path: &Path, script: &str) -> Output {
    Command::new("/bin/sh").args(["-c", script]).env_clear().env("PATH", path).output().unwrap()
}

#[test]
fn each_family_installs_its_own_packages_and_then_the_tool_is_looked_for() {
    let git = recipe(&["git"]);
    let played = |manager: &str| {
        let (output, called) = played(&git, &[manager, "git", "rm"]);
        assert!(output.status.success(), "{output:?}");
        called
    };
    assert_eq!(
        played("apt-get"),
        "apt-get update\napt-get install -y --no-install-recommends git ca-certificates openssh-client\n\
         apt-get clean\nrm\ngit --version\n"
    );
    assert_eq!(
        played("apk"),
        "apk add --no-cache git ca-certificates openssh-client\ngit --version\n"
    );
    assert_eq!(
        played("dnf"),
        "dnf install -y --setopt=install_weak_deps=False git ca-certificates openssh-clients\ndnf clean all\n\
         git --version\n"
    );
}

#[test]
fn a_version_is_installed_by_the_manager_which_comes_first() {
    let recipe = recipe(&["nodejs@20"]);
    assert_eq!(labels(&recipe), ["tool mise", "tool nodejs@20"]);
    let programs = ["apt-get", "curl", "rm", "ln", "mise", "node", "npm"];
    let (output, called) = played(&recipe, &programs);
    // What curl should have fetched is not there.
    assert!(!output.status.success() && called.contains("curl -fsSL "), "{called}");
    let second = Recipe { run: vec![recipe.run[1].clone()].try_into().unwrap(), ..recipe };
    let (output, called) = played(&second, &programs);
    assert!(output.status.success(), "{output:?}");
    // Where it is, the stand-in does not say.
    let expected = "mise install --yes node@20\nmise where node@20\nln -sfn  /opt/nodejs\nrm\n\
                    node --version\nnpm --version\n";
    assert_eq!(called, expected);
}

#[test]
fn a_step_that_fails_ends_its_script_and_a_tool_that_is_not_there_afterwards_fails_it() {
    let git = recipe(&["git"]);
    let (output, called) = played(&git, &["apk"]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    assert!(called.starts_with("apk add"), "{called}");
    let (output, _) = played(&git, &["git"]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("none of apt-get, apk and dnf"), "{said}");
}

#[test]
fn a_family_without_packages_of_a_tool_is_told_of() {
    let text = "name = \"a\"\ndescription = \"\"\ncheck = \"a\"\n[packages]\napt = [\"a\"]\n";
    let tools = Tools::built_in().with([toml::from_str(text).unwrap()]).unwrap();
    let (output, called) = played(&recipe_on(&tools, &["a"], &[]).unwrap(), &["apk", "a"]);
    assert_eq!((output.status.code(), called.as_str()), (Some(1), ""));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "the catalogue has no packages of apk for a\n");
}

#[test]
fn what_tools_add_to_the_path_goes_before_that_of_the_base_and_into_login_shells() {
    let tools = Tools::built_in();
    let recipe = recipe_on(&tools, &["rust", "uv"], &[("PATH", "/base/bin:/bin")]).unwrap();
    let env = serde_json::to_value(&recipe.env).unwrap();
    assert_eq!(env["PATH"], "/opt/cargo/bin:/opt/uv:/base/bin:/bin");
    assert_eq!(env["RUSTUP_HOME"], "/opt/rustup");
    let file = serde_json::to_value(&recipe.files[0]).unwrap();
    let text = file["source"]["text"].as_str().unwrap();
    assert!(text.contains("export PATH='/opt/cargo/bin:/opt/uv:/base/bin:/bin'\n"));
    let plain = recipe_on(&tools, &["git"], &[("PATH", "/base/bin")]).unwrap();
    assert!(plain.env.is_empty() && plain.files.is_empty());
}

#[test]
fn nothing_asked_for_makes_no_recipe_and_only_what_needs_a_network_gets_one() {
    assert_eq!(recipe_on(&Tools::built_in(), &[], &[]), None);
    assert_eq!(recipe(&["jq"]).build.network, NetworkMode::Egress);
    let alone = "name = \"a\"\ndescription = \"\"\ncheck = \"true\"\n\
                 [install]\nnetwork = \"isolated\"\nrun = \"true\"\n";
    let tools = Tools::built_in().with([toml::from_str(alone).unwrap()]).unwrap();
    let network = |asked: &[&str]| recipe_on(&tools, asked, &[]).unwrap().build.network;
    assert_eq!(network(&["a"]), NetworkMode::Isolated);
    assert_eq!(network(&["a", "jq"]), NetworkMode::Egress);
}

#[test]
fn a_version_is_one_that_is_listed_or_where_others_may_be_a_few_numbers() {
    let mut versions = Versions { listed: vec!["lts".into()], ..Versions::default() };
    assert!(versions.may_have("lts") && !versions.may_have("20"));
    versions.others = Others::Numbers;
    for good in ["lts", "20", "1.2.3.4"] {
        assert!(versions.may_have(good), "{good}");
    }
    for bad in ["", "latest", "v20", "1.", "1..2", "1.2.3.4.5"] {
        assert!(!versions.may_have(bad), "{bad:?}");
    }
}

#[test]
fn an_assistant_comes_last_with_the_tools_that_it_needs_unless_others_were_asked_for() {
    let tools = Tools::built_in();
    let needed = ["nodejs@22", "jq"].map(|it| it.parse().unwrap());
    let run = ["npm install hal".to_owned()];
    let more = Addition { name: "hal", tools: &needed, run: &run, check: Some("hal --version") };
    let env = BTreeMap::new();
    let base = base();
    let made = |asked: &[ToolRef]| {
        tools.derive(Ground { base: &base, env: &env }, asked, Some(more)).unwrap().unwrap()
    };
    let recipe = made(&["node@20".parse().unwrap()]);
    assert_eq!(labels(&recipe), ["tool mise", "tool nodejs@20", "tool jq", "assistant hal"]);
    assert_eq!(recipe.build.network, NetworkMode::Egress);
    assert_eq!(labels(&made(&[]))[1], "tool nodejs@22");
    let last = Recipe { run: vec![recipe.run[3].clone()].try_into().unwrap(), ..recipe };
    let (output, called) = played(&last, &["npm", "hal"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(called, "npm install hal\nhal --version\n");
    let there = tools.derive(Ground { base: &base, env: &env }, &[], more.looked_for());
    let there = there.unwrap().unwrap();
    assert_eq!(
        (labels(&there), there.build.network),
        (vec!["assistant hal"], NetworkMode::Isolated)
    );
    let (output, called) = played(&there, &["hal"]);
    assert!(output.status.success() && called == "hal --version\n", "{output:?} {called}");
    assert_ne!(played(&there, &["npm"]).0.status.code(), Some(0));
}
