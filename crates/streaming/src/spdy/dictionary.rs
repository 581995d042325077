//! The text that both ends of a SPDY/3 connection prime zlib with (draft-mbelshe-httpbis-spdy-00, 2.6.10.1): words, each
//! with its length in front as in a header block, then a run of common values.

use std::sync::OnceLock;

/// Separated by `|`.
const WORDS: &str = "\
options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|\
content-language|content-length|content-location|content-md5|content-range|content-type|date|etag|\
expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|\
last-modified|location|max-forwards|pragma|proxy-authenticate|proxy-authorization|range|referer|\
retry-after|server|te|trailer|transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|\
method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin";

const VALUES: &str = "\
100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Au\
thoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidd\
en404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr Ma\
y Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,imag\
e/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicpri\
vatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Adler-32 of the dictionary: what a zlib stream's head names it by.
pub(super) const ID: u32 = 0xe3c6_a7c2;

pub(super) fn dictionary() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes = Vec::with_capacity(1423);
        for word in WORDS.split('|') {
            bytes.extend((word.len() as u32).to_be_bytes());
            bytes.extend(word.as_bytes());
        }
        bytes.extend(VALUES.as_bytes());
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_one() {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in dictionary() {
            low = (low + u32::from(*byte)) % 65521;
            high = (high + low) % 65521;
        }
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(high << 16 | low, ID);
    }
}
