//! `auth_file` beside the configuration file: where it is, who wins, what a bad one does.

use std::fs;
use std::path::Path;

use super::super::{Config, ConfigError, Loaded, diff, load};
use super::no_env;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(config: &str, users: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("config.toml", config);
        folder.write("userlist.txt", users);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.0.path().join("config.toml"), &no_env)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}")).config.as_ref().clone()
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn password<'a>(config: &'a Config, user: &str) -> Option<&'a str> {
    config.users.password(user).map(|password| password.expose())
}

const USERS: &str = "\"ann\" \"from the file\"\n\"bob\" \"from the file\"\n\"eve\" \"\"\n";

#[test]
fn a_relative_file_counts_from_the_folder_of_the_configuration() {
    let text = "[general]\nauth_file = \"userlist.txt\"\nadmin_users = \"bob\"\n\
                [databases.d]\n[users.ann]\npassword = \"from toml\"\n[users.bob]\npool_size = 3\n";
    let folder = Folder::new(text, USERS);
    let loaded = folder.load().unwrap();
    assert_eq!(loaded.warnings, []);
    let config = &loaded.config;
    assert_eq!(password(config, "ann"), Some("from toml"), "[users] wins");
    assert_eq!(password(config, "bob"), Some("from the file"), "a user of both");
    assert_eq!(password(config, "eve"), None);
    assert!(config.users.is_known("eve") && !config.users.is_known("nobody"));
    assert_eq!(config.users.names().collect::<Vec<_>>(), ["ann", "bob", "eve"]);
    let pool = config.pool_settings("d", "bob").unwrap();
    assert_eq!(pool.server_password.unwrap().expose(), "from the file");
    assert_eq!(pool.pool_size.get(), Some(3));
}

#[test]
fn forced_users_get_their_secret_from_the_file_too() {
    let text = "[general]\nauth_file = \"userlist.txt\"\n[databases.d]\nuser = \"bob\"\n";
    let loaded = Folder::new(text, USERS).load().unwrap();
    assert_eq!(loaded.warnings, []);
    let pool = loaded.config.pool_settings("d", "ann").unwrap();
    assert_eq!(pool.server_password.unwrap().expose(), "from the file");
}

#[test]
fn all_that_is_wrong_in_both_files_is_told() {
    let text = "[general]\nauth_file = \"userlist.txt\"\nlisten_port = 0\n";
    let folder = Folder::new(text, "\"a\" \"b\"\nbad\n");
    let error = folder.load().unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with(&format!("{}:3:15: ", folder.path("config.toml"))), "{error}");
    assert!(lines[1].starts_with(&format!("{}:2:1: ", folder.path("userlist.txt"))), "{error}");
    let text = "[general]\nauth_file = \"nowhere.txt\"\n";
    let error = Folder::new(text, "").load().unwrap_err().to_string();
    assert!(error.contains("nowhere.txt: cannot read the file"), "{error}");
}

#[test]
fn a_file_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("[general]\nauth_file = \"userlist.txt\"\n[databases.d]\n", USERS);
    let path = folder.path("userlist.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = folder.load().unwrap().warnings;
    let shown: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with(&path) && shown[0].contains("0644"), "{shown:?}");
}

#[test]
fn a_difference_counts_the_users_of_the_file_and_names_none() {
    let text = "[general]\nauth_file = \"userlist.txt\"\n";
    let folder = Folder::new(text, USERS);
    let old = folder.config();
    folder.write("userlist.txt", "\"bob\" \"hunter2\"\n\"carl\" \"hunter2\"\n");
    let new = folder.config();
    let shown = diff(&old, &new).to_string();
    assert_eq!(shown, "changed: auth_file: 1 added, 2 removed, 1 changed\n");
    assert!(!format!("{new:?}").contains("hunter2"));
}

#[test]
fn setting_auth_file_reads_it() {
    let folder = Folder::new("[general]\n", USERS);
    let running = folder.config();
    let place = folder.0.path();
    let set = running.with_setting("auth_file", "userlist.txt", place).unwrap();
    assert_eq!(password(&set, "bob"), Some("from the file"));
    let unset = set.with_setting("auth_file", "", place).unwrap();
    assert_eq!(unset, running);
    folder.write("userlist.txt", "nonsense");
    let error = running.with_setting("auth_file", "userlist.txt", place).unwrap_err().to_string();
    assert!(error.contains("userlist.txt:1:1: "), "{error}");
    let none = Path::new("/nonexistent");
    assert!(running.with_setting("auth_file", "userlist.txt", none).is_err());
}
