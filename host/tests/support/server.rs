//! A running `sconce serve`.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::client::{Answer, Metrics};
use super::sse::{ChatStream, EventStream};
use super::{client, command, eventually, plugin, temp_dir};

/// A server of the test's own. Killed when dropped, and its log is printed if the test is failing.
pub struct Server {
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    _home: tempfile::TempDir,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

impl Server {
    /// Starts on any port and waits until the server says that it is ready.
    pub fn start(args: &[&str]) -> Server {
        Server::start_with(args, &[])
    }

    /// The same with environment variables.
    pub fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Server {
        Server::start_in(Path::new("."), args, variables)
    }

    /// The same in a directory.
    pub fn start_in(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Server {
        Server::spawn(0, args, variables, dir).when_ready()
    }

    /// The demo model on the CPU.
    pub fn demo() -> Server {
        Server::start(&["--backend", "cpu"])
    }

    /// The demo model's text side in front of the mock backend, and how that should misbehave.
    pub fn mock(faults: &str, args: &[&str]) -> Server {
        Server::start_with(&[&["--backend", "mock"], args].concat(), &[("SCONCE_MOCK_FAULT", faults)])
    }

    /// The same on a port, as soon as it listens, which is before the model is loaded.
    pub fn loading_mock(faults: &str, args: &[&str]) -> Server {
        let port = free_port();
        let args = [&["--backend", "mock"], args].concat();
        let mut server = Server::spawn(port, &args, &[("SCONCE_MOCK_FAULT", faults)], Path::new("."));
        server.url = format!("http://127.0.0.1:{port}");
        eventually("the server listens", || {
            server.must_live();
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        server
    }

    fn spawn(port: u16, args: &[&str], variables: &[(&str, &str)], dir: &Path) -> Server {
        plugin("cpu");
        plugin("mock");
        let home = temp_dir();
        let mut command = command::command(Path::new(env!("CARGO_BIN_EXE_sconce")), home.path());
        command
            .args(["serve", "--port", &port.to_string()])
            .args(args)
            .envs(variables.iter().copied())
            .current_dir(dir);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is piped");
        std::thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *log.lock().expect("no holder panics") += &format!("{line}\n");
                }
            }
        });
        Server { child: Mutex::new(child), log, url: String::new(), _home: home }
    }

    fn when_ready(mut self) -> Server {
        let mut url = None;
        eventually("the server is ready", || {
            self.must_live();
            url = self.ready_at();
            url.is_some()
        });
        self.url = url.expect("the loop ends with it");
        self
    }

    fn must_live(&self) {
        let ended = self.child.lock().expect("no holder panics").try_wait().expect("the child can be asked");
        assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
    }

    fn ready_at(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("ready: "))?;
        Some(line[line.find("http://")?..].trim_end().to_owned())
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no holder panics").clone()
    }

    pub fn get(&self, path: &str) -> Answer {
        client::get(&format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        client::post(&format!("{}{path}", self.url), body)
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        client::post_bytes(&format!("{}{path}", self.url), body)
    }

    /// Starts a streamed answer; it must begin with 200.
    pub fn stream(&self, path: &str, body: &Value) -> EventStream {
        EventStream::open(&format!("{}{path}", self.url), body)
    }

    /// A chat or completion, streamed to its end.
    pub fn streamed(&self, path: &str, body: &Value) -> ChatStream {
        let mut body = body.clone();
        body["stream"] = true.into();
        ChatStream::read(self.stream(path, &body))
    }

    /// The text that a completion answers.
    pub fn completion(&self, body: &Value) -> String {
        let answer = self.post("/v1/completions", body).ok();
        answer["choices"][0]["text"].as_str().expect("a completion has a text").to_owned()
    }

    /// The greedy text after a prompt.
    pub fn greedy(&self, prompt: impl Into<Value>, max_tokens: u32) -> String {
        let prompt: Value = prompt.into();
        self.completion(&serde_json::json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}))
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").body)
    }

    /// Waits until nothing runs and nothing waits.
    pub fn idle(&self) {
        eventually("the server is idle", || {
            let metrics = self.metrics();
            metrics.value("sconce_requests_running") + metrics.value("sconce_requests_waiting") == 0.0
        });
    }

    /// Id of its process.
    pub fn process(&self) -> u32 {
        self.child.lock().expect("no holder panics").id()
    }

    /// Asks it to end, as a service manager would.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, name: &str) {
        let id = self.process().to_string();
        let sent = Command::new("kill").args([name, &id]).status().expect("`kill` is there");
        assert!(sent.success(), "the signal was not sent");
    }

    /// Waits for its end and returns the exit code.
    pub fn exit_code(&self) -> i32 {
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.lock().expect("no holder panics").try_wait().expect("the child can be asked");
            status.is_some()
        });
        // The reader of the log may be a line behind.
        std::thread::sleep(Duration::from_millis(50));
        status.and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            println!("--- log of the server\n{}", self.log());
        }
    }
}
