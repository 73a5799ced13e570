//! The first command of a VM with vsock, and of one whose guest kernel refuses to load it: the host
//! must find out at once and use TCP.
//!
//! Boots differ more from each other than the two ways to reach an agent do. So the clock starts when
//! the agent in the guest begins to listen, as the guest's console tells: what counts is how long the
//! host takes from there to the first byte of a command's output.

use super::{Figure, median, ms, server, to_first_output};
use crate::{
    args::{Args, BenchArgs},
    datadir::DataDir,
    error::CliError,
    progress::Bars,
};
use aetherium_model::{
    Code, Fault, Name,
    template::Template,
    vm::{AgentTransport, Vm},
};

/// Makes the kernel refuse these modules (Documentation/admin-guide/kernel-parameters.txt).
const WITHOUT_VSOCK: &str = "module_blacklist=vsock,vmw_vsock_virtio_transport";

pub(super) async fn fallback(
    args: &Args,
    rounds: u32,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let without = without_vsock(&data, &bench.template)?;
    let server = server(args, bench).await?;
    let client = server.client()?;
    let bars = Bars::new();
    let measured = async {
        let (mut vsock, mut tcp) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            bars.tick(&format!("round {} of {rounds}", round + 1));
            for (template, wanted, samples) in [
                (&bench.template, AgentTransport::Vsock, &mut vsock),
                (&without, AgentTransport::Tcp, &mut tcp),
            ] {
                let (took, vm) = to_first_output(&client, template).await?;
                if vm.agent_transport != Some(wanted) {
                    let found = vm.agent_transport.map_or("nothing", AgentTransport::as_str);
                    return Err(CliError::from(wrong(found, wanted)));
                }
                let console = client.text(&format!("/vms/{}/console", vm.id)).await?;
                samples.push(ms(took) - listening_at(&vm, &console)?);
            }
        }
        Ok((vsock, tcp))
    }
    .await;
    bars.clear();
    server.stop().await;
    super::super::template::open(&data)?.remove(&without).map_err(Fault::from)?;
    let (mut vsock, mut tcp) = measured?;
    let (vsock, tcp) = (median(&mut vsock), median(&mut tcp));
    Ok(vec![
        Figure::new("fallback.vsock_listening_to_output_p50", vsock, "ms"),
        Figure::new("fallback.tcp_listening_to_output_p50", tcp, "ms").over(vsock),
        Figure::new("fallback.added_p50", tcp - vsock, "ms").value_at_most(100.0),
    ])
}

/// When the agent began to listen, in milliseconds after the request for its VM: the host's time until
/// the guest's init began, and from there the guest's own clock.
fn listening_at(vm: &Vm, console: &str) -> Result<f64, CliError> {
    let uptime = |stage: &str| -> Option<f64> {
        let (_, rest) = console.split_once(&format!("stage={stage} uptime_ms="))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let in_init = uptime("listening").zip(uptime("start")).map(|(end, begin)| end - begin);
    let started = vm.timings.map(|it| (it.prepare_ms + it.boot_ms) as f64);
    let at = started.zip(in_init).map(|(started, in_init)| started + in_init);
    at.ok_or_else(|| Fault::internal(format!("{} does not tell when it listened", vm.id)).into())
}

fn wrong(found: &str, wanted: AgentTransport) -> Fault {
    Fault::new(
        Code::Unavailable,
        format!("the agent was reached over {found}, not over {}", wanted.as_str()),
    )
    .remedy("vsock under QEMU needs vhost-device-vsock: see `aetherium doctor`")
}

/// A template with the same files whose guests have no vsock.
fn without_vsock(data: &DataDir, name: &Name) -> Result<Name, CliError> {
    let store = super::super::template::open(data)?;
    let installed = store.get(name).map_err(Fault::from)?;
    let derived: Name = format!("{name}.novsock").parse().map_err(Fault::internal)?;
    let change = |template: &mut Template| {
        template.kernel.extra_args.push(WITHOUT_VSOCK.to_owned());
    };
    store.derive(&installed, &derived, change).map_err(Fault::from)?;
    Ok(derived)
}
