//! Whether a name server answers (RFC 1035, section 4). What it answers does not matter.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

const PORT: u16 = 53;
/// A datagram may be lost: it is sent again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Who the name servers of the root are: a question that every server has an answer for, or a refusal.
fn query(id: u16) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    const NS: u16 = 2;
    const INTERNET: u16 = 1;
    let words = [id, RECURSION_DESIRED, 1, 0, 0, 0];
    let mut packet: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    packet.push(0);
    packet.extend([NS, INTERNET].iter().flat_map(|word| word.to_be_bytes()));
    packet
}

/// The answer's code, if it is one to [`query`].
fn code(id: u16, packet: &[u8]) -> Option<u8> {
    const RESPONSE: u8 = 0x80;
    let is_ours = packet.get(..2)? == id.to_be_bytes() && packet.get(2)? & RESPONSE != 0;
    is_ours.then(|| packet.get(3).map(|byte| byte & 0x0f))?
}

fn word(code: u8) -> String {
    match code {
        0 => "answers".into(),
        2 => "answers SERVFAIL".into(),
        3 => "answers NXDOMAIN".into(),
        5 => "answers REFUSED".into(),
        other => format!("answers with code {other}"),
    }
}

/// How the server answers to whoever asks in the calling thread's namespace.
pub(super) fn ask(server: IpAddr, patience: Duration) -> io::Result<String> {
    ask_at(server, PORT, patience)
}

fn ask_at(server: IpAddr, port: u16, patience: Duration) -> io::Result<String> {
    let any = if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, port))?;
    let (id, end) = (std::process::id() as u16, Instant::now() + patience);
    loop {
        socket.send(&query(id))?;
        let turn = end.min(Instant::now() + AGAIN);
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let mut packet = [0; 512];
            match socket.recv(&mut packet) {
                Ok(length) => match code(id, &packet[..length]) {
                    Some(code) => return Ok(word(code)),
                    None => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let asked = query(0x1234);
        assert_eq!(asked.len(), 17);
        assert_eq!(code(0x1234, &asked), None, "the question itself is none");
        let mut answer = asked.clone();
        (answer[2], answer[3]) = (0x81, 0x83);
        assert_eq!(code(0x1234, &answer), Some(3));
        assert_eq!((code(0x1235, &answer), code(0x1234, &answer[..3]), code(1, &[])), (None, None, None));
    }

    #[test]
    fn a_server_that_answers_one_that_is_silent_and_none() {
        let server = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let at = server.local_addr().unwrap();
        let ask = |patience| ask_at(at.ip(), at.port(), patience);
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| {
                let mut packet = [0; 64];
                let (length, from) = server.recv_from(&mut packet).unwrap();
                (packet[2], packet[3]) = (0x81, 0x05);
                server.send_to(&packet[..length], from).unwrap();
            });
            assert_eq!(ask(Duration::from_secs(5)).unwrap(), "answers REFUSED");
            answering.join().unwrap();
        });
        let silent = ask(Duration::from_millis(100)).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        drop(server);
        assert_eq!(ask(Duration::from_secs(5)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
