//! The kernel's tables of TCP sockets, `/proc/net/tcp` and `/proc/net/tcp6`. Pure: text in, ports out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aetherium_agent_proto::ports::ListeningPort;

/// The state of a socket that listens, from the kernel's `tcp_states.h`.
const LISTEN: &str = "0A";

/// The listening sockets of a table. Lines that are no sockets are left out.
pub(super) fn listening(table: &str) -> impl Iterator<Item = ListeningPort> + '_ {
    table.lines().filter_map(line)
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid …`
fn line(line: &str) -> Option<ListeningPort> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    Some(ListeningPort { address: self::address(address)?, port: hex(port)?.try_into().ok()?, uid })
}

/// Words of 32 bits in hexadecimal, each as the machine's memory held it.
fn address(text: &str) -> Option<IpAddr> {
    match text.len() {
        8 => Some(Ipv4Addr::from(hex(text)?.to_ne_bytes()).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&hex(text.get(index * 8..index * 8 + 8)?)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 23456 1 0000000000000000 100 0 0 10 0
   1: 0100007F:A1B2 0100007F:0CEA 01 00000000:00000000 00:00000000 00000000     0        0 23457 1 0000000000000000 20 4 30 10 -1
";
    const TABLE6: &str = "  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:270F 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 2 1 0 100 0 0 10 0
";

    #[test]
    fn listening_sockets_are_found_and_connected_ones_are_not() {
        let found: Vec<_> = listening(TABLE).collect();
        let address = Ipv4Addr::LOCALHOST.into();
        assert_eq!(found, [ListeningPort { address, port: 3306, uid: 1000 }]);
    }

    #[test]
    fn ipv6_addresses_are_read_word_by_word() {
        let found: Vec<_> = listening(TABLE6).map(|it| (it.address, it.port, it.uid)).collect();
        let (all, one) = (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(found, [(all, 9999, 0), (one, 80, 33)]);
    }

    proptest! {
        #[test]
        fn no_table_makes_the_reader_fail(text in "\\PC{0,200}") {
            let _ = listening(&text).count();
        }

        #[test]
        fn every_listening_line_is_read_as_written(bits: u32, port: u16, uid: u32) {
            let address = Ipv4Addr::from(bits.to_ne_bytes());
            let text = format!("0: {bits:08X}:{port:04X} 00000000:0000 0A 0:0 00:0 0 {uid} 0 1");
            let found: Vec<_> = listening(&text).collect();
            prop_assert_eq!(found, vec![ListeningPort { address: address.into(), port, uid }]);
        }
    }
}
