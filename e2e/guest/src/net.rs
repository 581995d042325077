use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Answers every request on a port with a word.
pub(crate) fn serve(port: u16, word: &str) -> io::Result<()> {
    // Both IP versions, where there is more than one.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = [0; 1024];
        // Whatever was asked, the answer is the same.
        let _ = stream.read(&mut request);
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
        let _ = stream.write_all(answer.as_bytes());
    }
    Ok(())
}

/// Sends back what comes on any number of connections to 127.0.0.1, each to its own end.
pub(crate) fn echo(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let mut back = stream.try_clone()?;
            io::copy(&mut stream, &mut back)?;
            back.shutdown(std::net::Shutdown::Write)
        });
    }
    Ok(())
}

/// The body of what `address` answers.
pub(crate) fn get(address: &str) -> io::Result<String> {
    let address = address.parse().map_err(|_| io::Error::other("no address:port"))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}
