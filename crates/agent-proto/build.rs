//! Generates the RPC service from `proto/agent.proto`, without `protoc`: the file is compiled by a
//! pure-Rust compiler, so a build needs nothing but crates.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    #[cfg(feature = "rpc")]
    generate()?;
    Ok(())
}

#[cfg(feature = "rpc")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message as _;

    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = out.join("agent.fds");
    let set = protox::compile(["agent.proto"], ["proto"])?;
    std::fs::write(&descriptors, set.encode_to_vec())?;
    // The generator asks cargo to run this again when its input is newer than the last run. Its input
    // is written by this very run, so it is given the age of what it was made from.
    let made_from = std::fs::metadata("proto/agent.proto")?.modified()?;
    std::fs::File::options().write(true).open(&descriptors)?.set_modified(made_from)?;
    connectrpc_build::Config::new()
        .descriptor_set(descriptors)
        .files(&["agent.proto"])
        .generate_json(false)
        .gate_client_feature(true)
        .client_feature_name("rpc-client")
        .include_file("agent_rpc.rs")
        .compile()?;
    Ok(())
}
