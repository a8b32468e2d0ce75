//! Answers of a scripted model server, as bytes.

fn fields_text(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

pub(crate) fn answer(
    status: u16,
    fields: &[(String, String)],
    body: &[u8],
    method: &str,
) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n{}", fields_text(fields));
    let without_body = matches!(status, 100..200 | 204 | 304);
    if !without_body {
        text += &format!("content-length: {}\r\n", body.len());
    }
    let mut bytes = (text + "\r\n").into_bytes();
    if !without_body && method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    bytes
}

pub(crate) fn chunked(
    fields: &[(String, String)],
    chunks: &[Vec<u8>],
    trailers: &[(String, String)],
) -> Vec<u8> {
    let fields = fields_text(fields);
    let head = format!("HTTP/1.1 200 Scripted\r\n{fields}transfer-encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for chunk in chunks {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend(format!("0\r\n{}\r\n", fields_text(trailers)).into_bytes());
    bytes
}
