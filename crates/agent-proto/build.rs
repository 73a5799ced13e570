//! Generates the RPC services from the files in `proto`, without `protoc`: they are compiled by a
//! pure-Rust compiler, so a build needs nothing but crates.

/// One file for each service, and what they share.
#[cfg(feature = "rpc")]
const FILES: [&str; 5] =
    ["agent.proto", "files.proto", "ports.proto", "refusal.proto", "system.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "rpc")]
    generate()?;
    Ok(())
}

#[cfg(feature = "rpc")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message as _;

    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = out.join("agent.fds");
    let set = protox::compile(FILES, ["proto"])?;
    std::fs::write(&descriptors, set.encode_to_vec())?;
    // The generator asks cargo to run this again when its input is newer than the last run. Its input
    // is written by this very run, so it is given the age of what it was made from.
    let made_from = youngest_source()?;
    std::fs::File::options().write(true).open(&descriptors)?.set_modified(made_from)?;
    connectrpc_build::Config::new()
        .descriptor_set(descriptors)
        .files(&FILES)
        .generate_json(false)
        .gate_client_feature(true)
        .client_feature_name("rpc-client")
        .include_file("agent_rpc.rs")
        .compile()?;
    Ok(())
}

#[cfg(feature = "rpc")]
fn youngest_source() -> std::io::Result<std::time::SystemTime> {
    let mut youngest = std::time::SystemTime::UNIX_EPOCH;
    for file in FILES {
        let modified = std::fs::metadata(std::path::Path::new("proto").join(file))?.modified()?;
        youngest = youngest.max(modified);
    }
    Ok(youngest)
}
