//! A broker that answers as a test wants, for what the real one does only seldom; and what it was asked.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    /// A header's value, empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// The false broker; it ends with the test's process.
pub(crate) struct FalseBroker {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FalseBroker {
    /// Starts it. It gives tokens `t1`, `t2`, ... and a task; everything else is answered by `answer`: status and JSON.
    pub(crate) fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, record) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, record) = (Arc::clone(&answer), Arc::clone(&record));
                std::thread::spawn(move || one(stream, &record, &*answer));
            }
        });
        Self { url, asked }
    }

    /// The requests to a path, in order.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|a| a.line.split(' ').nth(1) == Some(path)).cloned().collect()
    }
}

fn one(stream: TcpStream, record: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> (u16, String)) {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        from.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
    from.read_exact(&mut body).unwrap();
    let asked = Asked { line: line.trim_end().to_owned(), headers, body: String::from_utf8(body).unwrap() };
    let nth = {
        let mut all = record.lock().unwrap();
        all.push(asked.clone());
        all.iter().filter(|a| a.line == asked.line).count()
    };
    let (status, body) = match asked.line.as_str() {
        "POST /oauth/token HTTP/1.1" => (200, format!(r#"{{"access_token":"t{nth}","token_type":"Bearer","expires_in":300}}"#)),
        "POST /v1/tasks HTTP/1.1" => {
            let id = format!("task_{:032x}", 9);
            (201, format!(r#"{{"task":{{"id":"{id}"}},"narrowed":[],"token":{{"access_token":"first","token_type":"Bearer","expires_in":300}}}}"#))
        }
        _ => answer(&asked),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let mut to = stream;
    let _ = to.write_all(head.as_bytes()).and_then(|()| to.write_all(body.as_bytes()));
}
