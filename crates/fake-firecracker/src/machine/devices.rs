//! Configuration: what each device and file must be like.

use super::{Machine, State, no_device};
use crate::{
    body::{
        Balloon, BalloonStatsUpdate, BalloonUpdate, BootSource, Drive, DriveUpdate, HugePages,
        LoggerBody, MachineConfig, MetricsBody, NetworkInterface, SerialBody, Vsock, read,
    },
    files,
    refusal::Refusal,
    version::Version,
    vsock::Device,
};
use serde_json::{Value, json};
use std::io::Write as _;

/// Firecracker's own limit (`MAX_SUPPORTED_VCPUS`).
const MAX_VCPUS: u8 = 32;

impl Machine {
    pub(super) fn set_boot_source(&mut self, body: Value) -> Result<(), Refusal> {
        let boot: BootSource = read(body)?;
        self.boot_path = true;
        files::open_boot_file(&boot.kernel_image_path, "The kernel file cannot be opened: ")?;
        if let Some(initrd) = &boot.initrd_path {
            let says =
                "The initrd file cannot be opened due to invalid path or invalid permissions. ";
            files::open_boot_file(initrd, says)?;
        }
        self.boot = Some(boot);
        Ok(())
    }

    /// A `PATCH` leaves what it does not name, a `PUT` names all that has no default.
    pub(super) fn set_machine(&mut self, body: Value) -> Result<(), Refusal> {
        let mut wanted = json!(self.machine);
        if let (Some(wanted), Value::Object(body)) = (wanted.as_object_mut(), body) {
            wanted.extend(body);
        }
        let machine: MachineConfig = read(wanted)?;
        self.boot_path = true;
        let refused = |why: &str| Err(Refusal::bad_request(format!("Machine config error: {why}")));
        let smt_fits =
            !machine.smt || machine.vcpu_count == 1 || machine.vcpu_count.is_multiple_of(2);
        if machine.vcpu_count == 0 || machine.vcpu_count > MAX_VCPUS || !smt_fits {
            return refused(
                "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even \
                 number if SMT is enabled.",
            );
        }
        let page_mib = if machine.huge_pages == HugePages::None { 1 } else { 2 };
        if machine.mem_size_mib == 0 || !machine.mem_size_mib.is_multiple_of(page_mib) {
            return refused(
                "The memory size (MiB) is either 0, or not a multiple of the configured page size.",
            );
        }
        if machine.huge_pages == HugePages::Transparent && self.temper.version < Version::NEXT {
            let why = "unknown variant `Transparent`, expected `None` or `2M`";
            return Err(Refusal::body(why));
        }
        if self.balloon.as_ref().is_some_and(|it| it.amount_mib > machine.mem_size_mib) {
            return refused(
                "The memory size (MiB) is smaller than the previously set balloon device target size.",
            );
        }
        self.machine = machine;
        Ok(())
    }

    pub(super) fn set_logger(&self, body: Value) -> Result<(), Refusal> {
        let LoggerBody { log_path, .. } = read(body)?;
        let Some(path) = log_path else { return Ok(()) };
        let file = files::open_output(&path, self.temper.version).map_err(|error| {
            Refusal::bad_request(format!("Logger error: Failed to open target file: {error}"))
        })?;
        self.log.redirect(file);
        Ok(())
    }

    pub(super) fn set_metrics(&mut self, body: Value) -> Result<(), Refusal> {
        let MetricsBody { metrics_path } = read(body)?;
        let refused = |why: String| {
            Refusal::bad_request(format!(
                "Metrics error: Cannot initialize the metrics system due to bad user input: {why}"
            ))
        };
        let file = files::open_output(&metrics_path, self.temper.version)
            .map_err(|error| refused(error.to_string()))?;
        if self.metrics.is_some() {
            return Err(refused("Reinitialization of metrics not allowed.".to_owned()));
        }
        self.metrics = Some(file);
        Ok(())
    }

    /// Writes one line of metrics, if there is a file for them.
    pub(super) fn flush_metrics(&mut self) -> Result<(), Refusal> {
        let Some(file) = self.metrics.as_mut() else { return Ok(()) };
        let now = jiff::Timestamp::now().as_millisecond();
        let line = json!({ "utc_timestamp_ms": now, "vcpu": { "failures": 0 } });
        file.write_all(format!("{line}\n").as_bytes()).map_err(|error| {
            Refusal::bad_request(format!("Internal VMM error: Metrics error: {error}"))
        })
    }

    /// The file is opened with the device, at the start.
    pub(super) fn set_serial(&mut self, body: Value) -> Result<(), Refusal> {
        let SerialBody { serial_out_path } = read(body)?;
        self.serial = serial_out_path;
        Ok(())
    }

    pub(super) fn set_drive(&mut self, body: Value) -> Result<(), Refusal> {
        let drive: Drive = read(body)?;
        if self.state != State::NotStarted
            && self.drives.iter().any(|(it, _)| it.drive_id == drive.drive_id)
        {
            return Err(Refusal::bad_request("Device ID in use"));
        }
        self.boot_path = true;
        let root = self.drives.iter().find(|(it, _)| it.is_root_device);
        if drive.is_root_device && root.is_some_and(|(it, _)| it.drive_id != drive.drive_id) {
            let message = "Drive config error: A root block device already exists!";
            return Err(Refusal::bad_request(message));
        }
        let (Some(path), Some(read_only)) = (&drive.path_on_host, drive.is_read_only) else {
            return Err(Refusal::bad_request(
                "Drive config error: Unable to create the virtio block device: Invalid block config.",
            ));
        };
        let file = files::open_drive(path, read_only).map_err(|why| {
            let message =
                format!("Drive config error: Unable to create the virtio block device: {why}");
            Refusal::bad_request(message)
        })?;
        self.drives.retain(|(it, _)| it.drive_id != drive.drive_id);
        let at = if drive.is_root_device { 0 } else { self.drives.len() };
        self.drives.insert(at, (drive, file));
        Ok(())
    }

    pub(super) fn update_drive(&mut self, id: &str, body: Value) -> Result<(), Refusal> {
        let update: DriveUpdate = read(body)?;
        let Some((drive, file)) = self.drives.iter_mut().find(|(it, _)| it.drive_id == id) else {
            return Err(Refusal::bad_request(
                "Drive config error: Unable to patch the block device: Failed perform action on \
                 device: Device not found Please verify the request arguments.",
            ));
        };
        if let Some(path) = update.path_on_host {
            let opened = files::open_drive(&path, drive.is_read_only == Some(true));
            *file = opened.map_err(|why| {
                Refusal::bad_request(format!(
                    "Drive config error: Unable to patch the block device: Block: {why} Please \
                     verify the request arguments."
                ))
            })?;
            drive.path_on_host = Some(path);
        }
        Ok(())
    }

    pub(super) fn set_network(&mut self, body: Value) -> Result<(), Refusal> {
        let network: NetworkInterface = read(body)?;
        self.boot_path = true;
        let taken = |it: &NetworkInterface| {
            it.guest_mac == network.guest_mac && it.iface_id != network.iface_id
        };
        if let Some(mac) = &network.guest_mac
            && self.networks.iter().any(|(it, _)| taken(it))
        {
            let mac = String::from(mac.clone());
            let message = format!("Network config error: The MAC address is already in use: {mac}");
            return Err(Refusal::bad_request(message));
        }
        self.networks.retain(|(it, _)| it.iface_id != network.iface_id);
        let tap = files::open_tap(&network.host_dev_name)?;
        self.networks.push((network, tap));
        Ok(())
    }

    pub(super) fn find_network(&self, id: &str) -> Result<(), Refusal> {
        if self.networks.iter().any(|(it, _)| it.iface_id == id) {
            return Ok(());
        }
        Err(Refusal::bad_request(
            "Network config error: Unable to update the net device: Failed perform action on device: \
             Device not found",
        ))
    }

    pub(super) fn set_vsock(&mut self, body: Value) -> Result<(), Refusal> {
        let vsock: Vsock = read(body)?;
        self.boot_path = true;
        if let Some((old, _)) = self.vsock.take() {
            // As Firecracker, which otherwise could not bind the same path again.
            let _ = std::fs::remove_file(old.uds_path);
        }
        let device = self.bind_vsock(&vsock).map_err(|why| {
            Refusal::bad_request(format!(
                "Vsock config error: Cannot create backend for vsock device: {why}"
            ))
        })?;
        self.vsock = Some((vsock, device));
        Ok(())
    }

    pub(super) fn bind_vsock(&self, vsock: &Vsock) -> Result<Device, String> {
        Device::bind(&vsock.uds_path, self.guest.subscribe(), self.temper.vsock)
            .map_err(|error| format!("Error binding to the host-side Unix socket: {error}"))
    }

    pub(super) fn set_balloon(&mut self, body: Value) -> Result<(), Refusal> {
        let mut balloon: Balloon = read(body)?;
        if self.temper.version >= Version::V1_14 {
            balloon.free_page_hinting.get_or_insert(false);
            balloon.free_page_reporting.get_or_insert(false);
        }
        self.boot_path = true;
        if balloon.amount_mib > self.machine.mem_size_mib {
            let message = "Balloon config error: Amount of pages requested is too large.";
            return Err(Refusal::bad_request(message));
        }
        self.balloon = Some(balloon);
        Ok(())
    }

    pub(super) fn describe_balloon(&self) -> Result<Value, Refusal> {
        match (&self.balloon, self.state) {
            (Some(balloon), _) => Ok(json!(balloon)),
            (None, State::NotStarted) => {
                Err(Refusal::bad_request("Balloon config error: No balloon device found."))
            }
            (None, _) => Err(no_device("Internal VMM")),
        }
    }

    pub(super) fn describe_balloon_stats(&self) -> Result<Value, Refusal> {
        match &self.balloon {
            None => Err(no_device("Internal VMM")),
            Some(balloon) if balloon.stats_polling_interval_s == 0 => Err(Refusal::bad_request(
                "Internal VMM error: Balloon: Received stats query when stats are disabled.",
            )),
            Some(balloon) => {
                // Pages of 4 KiB.
                let pages = balloon.amount_mib * 256;
                Ok(json!({
                    "target_pages": pages, "actual_pages": pages,
                    "target_mib": balloon.amount_mib, "actual_mib": balloon.amount_mib,
                }))
            }
        }
    }

    pub(super) fn update_balloon(&mut self, body: Value) -> Result<(), Refusal> {
        let BalloonUpdate { amount_mib } = read(body)?;
        let Some(balloon) = self.balloon.as_mut() else { return Err(no_device("Balloon update")) };
        if self.guest.borrow().is_none() {
            let message = "Balloon update error: Balloon: Device not activated yet.";
            return Err(Refusal::bad_request(message));
        }
        if amount_mib > self.machine.mem_size_mib {
            return Err(Refusal::bad_request(format!(
                "Balloon update error: Balloon: Requested memory should be less than {}MiB",
                self.machine.mem_size_mib
            )));
        }
        balloon.amount_mib = amount_mib;
        Ok(())
    }

    pub(super) fn update_balloon_stats(&mut self, body: Value) -> Result<(), Refusal> {
        let BalloonStatsUpdate { stats_polling_interval_s: wanted } = read(body)?;
        let Some(balloon) = self.balloon.as_mut() else { return Err(no_device("Balloon update")) };
        if (wanted == 0) != (balloon.stats_polling_interval_s == 0) {
            return Err(Refusal::bad_request(
                "Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.",
            ));
        }
        balloon.stats_polling_interval_s = wanted;
        Ok(())
    }
}
