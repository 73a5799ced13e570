//! Generates the RPC services from the files in `proto/`, without `protoc`: they are compiled by a
//! pure-Rust compiler, so a build needs nothing but crates.

/// The files, one per service.
#[cfg(feature = "rpc")]
const PROTOS: &[&str] = &["agent.proto"];

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
    let set = protox::compile(PROTOS, ["proto"])?;
    std::fs::write(&descriptors, set.encode_to_vec())?;
    // The generator asks cargo to run this again when its input is newer than the last run. Its input
    // is written by this very run, so it is given the age of what it was made from.
    let mut made_from = std::time::SystemTime::UNIX_EPOCH;
    for proto in PROTOS {
        made_from = made_from.max(std::fs::metadata(format!("proto/{proto}"))?.modified()?);
    }
    std::fs::File::options().write(true).open(&descriptors)?.set_modified(made_from)?;
    connectrpc_build::Config::new()
        .descriptor_set(descriptors)
        .files(PROTOS)
        .generate_json(false)
        .gate_client_feature(true)
        .client_feature_name("rpc-client")
        .include_file("agent_rpc.rs")
        .compile()?;
    Ok(())
}
