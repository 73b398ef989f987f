//! The Debian package: built as packaging/deb builds it, but of the program that is under test, and installed into a root of
//! its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::{read, root, run};

/// The package.
static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
    let package = target.join("sip-push-proxy.deb");
    let mut build = Command::new(root().join("packaging/deb"));
    build.arg("--program").arg(env!("CARGO_BIN_EXE_sip-push-proxy")).args(["--fast", "--output"]).arg(&package);
    run(build.env("CARGO_TARGET_DIR", &target));
    package
});

/// A root in which it is installed.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let installed = Self(TempDir::new().unwrap());
        std::fs::create_dir_all(installed.path("var/lib/dpkg/info")).unwrap();
        std::fs::create_dir_all(installed.path("var/lib/dpkg/updates")).unwrap();
        std::fs::write(installed.path("var/lib/dpkg/status"), "").unwrap();
        // Whatever runs on this machine is left alone.
        std::fs::create_dir_all(installed.path("usr/sbin")).unwrap();
        std::fs::write(installed.path("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").unwrap();
        run(Command::new("chmod").arg("+x").arg(installed.path("usr/sbin/policy-rc.d")));
        installed.install();
        installed
    }

    /// In the root.
    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn dpkg(&self, action: &str, what: &Path) -> String {
        let mut dpkg = as_root("dpkg");
        dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        // What it depends on is in the machine's root, and so is what its scripts call.
        dpkg.args(["--force-depends", "--force-not-root", "--force-script-chrootless", "--force-confdef"]);
        dpkg.args(["--force-confold", "--log=/dev/null"]).arg("--root").arg(self.path(""));
        run(dpkg.arg(action).arg(what))
    }

    fn install(&self) {
        self.dpkg("--install", &PACKAGE);
    }

    /// The installed program, with the installed configuration.
    fn check(&self) -> (Option<i32>, String) {
        let mut check = Command::new(self.path("usr/bin/sip-push-proxy"));
        let output = check.arg("check").arg("--config").arg(self.config_file()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn config_file(&self) -> PathBuf {
        self.path("etc/sip-push-proxy/config.toml")
    }
}

/// What gives files to root: as somebody else, in a namespace of one's own.
fn as_root(program: &str) -> Command {
    if run(Command::new("id").arg("-u")).trim() == "0" {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", program]);
    command
}

#[test]
fn the_package_installs_upgrades_and_goes() {
    let installed = Installed::new();
    let is_enabled = || {
        let link = installed.path("etc/systemd/system/multi-user.target.wants/sip-push-proxy.service");
        std::fs::symlink_metadata(link).is_ok()
    };
    assert!(is_enabled());
    assert!(installed.path("etc/sip-push-proxy/keys").is_dir());

    // As it comes, nothing is served by mistake.
    let (status, told) = installed.check();
    assert_eq!(status, Some(2), "{told}");
    assert!(told.contains("sip.advertise: needed") && told.contains("softswitch.uri: needed"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");

    // Edited as it says, it is good, and an upgrade leaves it so.
    let edited = read(installed.config_file())
        .replace("# advertise = \"192.0.2.10\"", "advertise = \"192.0.2.11\"")
        .replace("# uri = \"sip:192.0.2.20:5060\"", "uri = \"sip:192.0.2.21:5060\"");
    std::fs::write(installed.config_file(), &edited).unwrap();
    let (status, told) = installed.check();
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("keeps       /var/lib/sip-push-proxy (node "), "{told}");
    installed.install();
    assert_eq!(read(installed.config_file()), edited);
    assert!(is_enabled());

    installed.dpkg("--purge", "sip-push-proxy".as_ref());
    for gone in ["etc/sip-push-proxy", "usr/bin/sip-push-proxy", "usr/lib/systemd/system/sip-push-proxy.service"] {
        assert!(!installed.path(gone).exists(), "{gone} is left behind");
    }
    assert!(!is_enabled());
}

#[test]
fn the_package_has_what_belongs_to_the_program() {
    let installed = Installed::new();
    for page in ["sip-push-proxy", "sip-push-proxy-serve", "sip-push-proxy-why"] {
        run(Command::new("gzip").arg("--test").arg(installed.path(&format!("usr/share/man/man1/{page}.1.gz"))));
    }
    let completions = installed.path("usr/share/bash-completion/completions/sip-push-proxy");
    run(Command::new("bash").arg("-n").arg(completions));
    for file in ["fish/vendor_completions.d/sip-push-proxy.fish", "zsh/vendor-completions/_sip-push-proxy"] {
        assert!(read(installed.path(&format!("usr/share/{file}"))).contains("bindings"), "{file}");
    }
    assert_eq!(
        read(installed.path("usr/lib/systemd/system/sip-push-proxy.service")),
        read(root().join("packaging/sip-push-proxy.service"))
    );
    let scripts = |name: &str| read(installed.path(&format!("var/lib/dpkg/info/sip-push-proxy.{name}")));
    // A run goes on until the new program is there, and ends by a stop that drains.
    assert!(scripts("postinst").contains("try-restart sip-push-proxy.service"));
    assert!(!scripts("postinst").contains("deb-systemd-invoke start"));
    assert!(scripts("prerm").contains("= remove ]"), "{}", scripts("prerm"));

    // Suppressed: a package that belongs to no archive has neither a maintainer's address nor a bug to close.
    let suppressed = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs";
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning", "--suppress-tags", suppressed]);
    assert_eq!(run(lintian.arg(&*PACKAGE)), "");
}
