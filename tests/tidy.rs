//! Tidy: the rules of the house that no other tool checks.
//!
//! Each rule is a function from sources to what is wrong with them; the tests in `samples` show
//! that it finds what it should, the tests in `house` apply it to this repository.

// A test ends by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use walkdir::WalkDir;

/// The member crates and which of the others each may import. The root package may import all.
const IMPORTS: [(&str, &[&str]); 4] = [
    ("saga", &[]),
    ("admission", &["orlop_saga"]),
    ("gpu", &["orlop_saga"]),
    ("store", &["orlop_saga"]),
];
/// The folders at the top.
const FOLDERS: [&str; 8] = [
    "admission",
    "docs",
    "engine",
    "examples",
    "gpu",
    "saga",
    "store",
    "tests",
];
/// The files at the top.
const FILES: [&str; 9] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
];
/// Where a file of code is looked at again.
const LINES_MAX: usize = 600;
/// Files of code that are longer all the same, and why.
const LONG: [(&str, &str); 0] = [];
/// Lints that library code may not even warn of.
const DENIED: [&str; 7] = [
    "unwrap_used",
    "expect_used",
    "panic",
    "indexing_slicing",
    "wildcard_enum_match_arm",
    "undocumented_unsafe_blocks",
    "multiple_unsafe_ops_per_block",
];
/// The one file outside `gpu` that may be unsafe, and why.
const UNSAFE_ELSEWHERE: (&str, &str) = (
    "engine/bin/orlop/torture/shim.rs",
    "to see what sled writes is to take over functions of the C library",
);
/// Macros that say that something is not there yet.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

type Problems = Vec<String>;

/// A file and its path from the root, with `/` between folders.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|found| found == extension)
    }

    fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    /// Whether it is a test and nothing else.
    fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs")
    }

    fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

/// The words and marks of Rust code, with comments and the insides of literals left out, and
/// every documentation text.
fn tokens(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut words, mut docs) = (Vec::new(), Vec::new());
    let stream: TokenStream = text.parse().expect("sources that compile have tokens");
    flatten(stream, &mut words, &mut docs);
    (words, docs)
}

fn flatten(stream: TokenStream, words: &mut Vec<String>, docs: &mut Vec<String>) {
    for token in stream {
        match token {
            TokenTree::Group(group) => flatten(group.stream(), words, docs),
            TokenTree::Ident(ident) => words.push(ident.to_string()),
            TokenTree::Punct(punct) => words.push(punct.as_char().to_string()),
            TokenTree::Literal(literal) => {
                let before = words.len().saturating_sub(2);
                if words[before..] == ["doc", "="] {
                    docs.push(literal.to_string());
                }
            }
        }
    }
}

/// Members import only what [`IMPORTS`] allows; examples see what an embedder sees.
fn foreign_imports(source: &Source) -> Problems {
    let examples: (&str, &[&str]) = ("examples", &["orlop"]);
    let rule = IMPORTS
        .iter()
        .chain([&examples])
        .find(|(name, _)| *name == source.folder());
    let Some((_, allowed)) = rule else {
        return Problems::new();
    };
    let (words, _) = tokens(&source.text);
    let ours = |word: &&String| *word == "orlop" || word.starts_with("orlop_");
    let imported: BTreeSet<&String> = words.iter().filter(ours).collect();
    imported
        .into_iter()
        // Its own name is what a member's tests call it by.
        .filter(|name| **name != format!("orlop_{}", source.folder()))
        .filter(|name| !allowed.contains(&name.as_str()))
        .map(|name| format!("{} may not name {name}", source.path))
        .collect()
}

/// A member's manifest depends on no crate of ours but those allowed.
fn foreign_dependencies(member: &str, allowed: &[&str], manifest: &toml::Table) -> Problems {
    let mut problems = Problems::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let named = manifest.get(kind).and_then(toml::Value::as_table);
        for name in named.into_iter().flat_map(toml::Table::keys) {
            let ours = name == "orlop" || name.starts_with("orlop-");
            if ours && !allowed.contains(&name.replace('-', "_").as_str()) {
                problems.push(format!("{member} may not depend on {name}"));
            }
        }
    }
    problems
}

/// Names that do not belong at the top, or are missing there.
fn top_level(found: &[String], expected: &[&str]) -> Problems {
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let foreign = found
        .difference(&expected)
        .map(|name| format!("{name} does not belong here"));
    let missing = expected
        .difference(&found)
        .map(|name| format!("{name} is missing"));
    foreign.chain(missing).collect()
}

/// Files of code over [`LINES_MAX`] lines that are not excused, and excuses nobody needs.
fn long_files(sources: &[Source], excused: &[(&str, &str)]) -> Problems {
    let mut problems = Problems::new();
    let mut needed = BTreeSet::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
    {
        let lines = source.text.lines().count();
        if lines <= LINES_MAX {
            continue;
        }
        if excused.iter().any(|(path, _)| *path == source.path) {
            needed.insert(source.path.as_str());
        } else {
            problems.push(format!(
                "{} has {lines} lines, over {LINES_MAX}",
                source.path
            ));
        }
    }
    let idle = excused.iter().filter(|(path, _)| !needed.contains(path));
    problems.extend(idle.map(|(path, _)| format!("{path} needs no excuse")));
    problems
}

/// The first byte of each line that is not ASCII.
fn not_ascii(source: &Source) -> Problems {
    let lines = source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_ascii());
    lines
        .map(|(at, _)| format!("{}:{} is not ASCII", source.path, at + 1))
        .collect()
}

/// Documentation tests that are compiled by nobody.
fn ignored_doctests(source: &Source) -> Problems {
    let texts = if source.is_rust() {
        tokens(&source.text).1
    } else {
        vec![source.text.clone()]
    };
    let fences = texts.iter().flat_map(|text| text.lines()).filter(|line| {
        let info = line.split_once("```").map(|(_, info)| info);
        info.is_some_and(|info| {
            info.split([',', ' ', '"'])
                .any(|word| word.starts_with("ignore"))
        })
    });
    fences
        .map(|fence| format!("{}: {}", source.path, fence.trim()))
        .collect()
}

/// Examples that the README does not name.
fn unlisted_examples(examples: &[String], readme: &str) -> Problems {
    let listed = |name: &&String| !readme.contains(&format!("| `{name}` |"));
    examples
        .iter()
        .filter(listed)
        .map(|name| format!("the README does not list {name}"))
        .collect()
}

/// `unsafe` code, and leave to write it, outside `gpu`.
fn foreign_unsafe(source: &Source) -> Problems {
    if source.folder() == "gpu" || source.path == UNSAFE_ELSEWHERE.0 {
        return Problems::new();
    }
    let (words, _) = tokens(&source.text);
    let found = words
        .iter()
        .filter(|word| *word == "unsafe" || *word == "unsafe_code");
    found
        .map(|word| format!("{} has {word}", source.path))
        .collect()
}

/// Macros that stand for what is not there yet.
fn unfinished(source: &Source) -> Problems {
    let (words, _) = tokens(&source.text);
    let called = words
        .windows(2)
        .filter(|pair| pair[1] == "!" && UNFINISHED.contains(&pair[0].as_str()));
    called
        .map(|pair| format!("{} calls {}!", source.path, pair[0]))
        .collect()
}

/// The workspace's lints, and a member that does not take them.
fn lints(workspace: &toml::Table, members: &[(String, toml::Table)]) -> Problems {
    let mut problems = Problems::new();
    let level = |tool: &str, lint: &str| -> Option<&str> {
        let found = workspace
            .get("workspace")?
            .get("lints")?
            .get(tool)?
            .get(lint)?;
        found.as_str().or_else(|| found.get("level")?.as_str())
    };
    for lint in ["missing_docs", "unsafe_op_in_unsafe_fn"] {
        if !matches!(level("rust", lint), Some("warn" | "deny")) {
            problems.push(format!("{lint} is off"));
        }
    }
    if level("rust", "unsafe_code") != Some("deny") {
        problems.push("unsafe_code is not denied".to_owned());
    }
    if level("clippy", "pedantic") != Some("warn") {
        problems.push("pedantic is not on".to_owned());
    }
    let lax = DENIED
        .iter()
        .filter(|lint| level("clippy", lint) != Some("deny"));
    problems.extend(lax.map(|lint| format!("{lint} is not denied")));
    for (name, manifest) in members {
        let inherits = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        if inherits.and_then(toml::Value::as_bool) != Some(true) {
            problems.push(format!("{name} does not take the workspace's lints"));
        }
    }
    problems
}

/// The oldest Rust that is supported, as the workspace, its members and the README tell it.
fn rust_version(
    workspace: &toml::Table,
    members: &[(String, toml::Table)],
    readme: &str,
) -> Problems {
    let shared = workspace.get("workspace").and_then(|w| w.get("package"));
    let Some(version) = shared
        .and_then(|p| p.get("rust-version"))
        .and_then(toml::Value::as_str)
    else {
        return vec!["the workspace names no rust-version".to_owned()];
    };
    let mut problems = Problems::new();
    if !readme.contains(&format!("Rust {version} or newer")) {
        problems.push(format!("the README does not say Rust {version} or newer"));
    }
    for (name, manifest) in members {
        let taken = manifest
            .get("package")
            .and_then(|package| package.get("rust-version"));
        if taken.and_then(|taken| taken.get("workspace")).is_none() {
            problems.push(format!("{name} does not take the workspace's rust-version"));
        }
    }
    problems
}

/// Links of a page to files that do not exist.
fn dead_links(page: &Source, exists: impl Fn(&str) -> bool) -> Problems {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let targets = page
        .text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let files = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    files
        .filter(|file| !file.is_empty() && !file.contains("://"))
        .filter(|file| !exists(&format!("{folder}/{file}")))
        .map(|file| format!("{} links to {file}, which does not exist", page.path))
        .collect()
}

mod house {
    //! The rules, applied to this repository.

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn is_ours(name: &str) -> bool {
        !name.starts_with('.') && !name.starts_with("target")
    }

    fn read(path: &str) -> Source {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        Source {
            path: path.to_owned(),
            text,
        }
    }

    /// Every text of ours: code, manifests, pages, and what CI runs.
    fn sources() -> Vec<Source> {
        let walk = WalkDir::new(root())
            .min_depth(1)
            .sort_by_file_name()
            .into_iter();
        let files = walk
            .filter_entry(|entry| {
                entry.depth() != 1 || is_ours(&entry.file_name().to_string_lossy())
            })
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file());
        let paths = files.map(|file| {
            let path = file.path().strip_prefix(root()).unwrap();
            path.to_str().unwrap().replace('\\', "/")
        });
        let texts = paths.filter(|path| {
            [".rs", ".toml", ".md"]
                .iter()
                .any(|kind| path.ends_with(kind))
        });
        let sources: Vec<_> = texts
            .map(|path| read(&path))
            .chain([read(".ci/run")])
            .collect();
        assert!(
            sources.len() > 100,
            "only {} sources were found",
            sources.len()
        );
        sources
    }

    fn rust() -> Vec<Source> {
        sources().into_iter().filter(Source::is_rust).collect()
    }

    fn manifest(path: &str) -> toml::Table {
        read(path).text.parse().unwrap()
    }

    /// Every package with its manifest, the root's included.
    fn members() -> Vec<(String, toml::Table)> {
        let named = |name: &str| (name.to_owned(), manifest(&format!("{name}/Cargo.toml")));
        let root = ("orlop".to_owned(), manifest("Cargo.toml"));
        IMPORTS
            .iter()
            .map(|(name, _)| named(name))
            .chain([root])
            .collect()
    }

    fn top(directories: bool) -> Vec<String> {
        let entries = std::fs::read_dir(root()).unwrap().map(Result::unwrap);
        let wanted = entries.filter(|entry| entry.file_type().unwrap().is_dir() == directories);
        let names = wanted.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| is_ours(name)).collect()
    }

    fn examples() -> Vec<String> {
        let entries = std::fs::read_dir(root().join("examples"))
            .unwrap()
            .map(Result::unwrap);
        let programs = entries.filter(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|kind| kind == "rs") || path.join("main.rs").exists()
        });
        programs
            .map(|entry| {
                entry
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    fn check(problems: impl IntoIterator<Item = String>) {
        let problems: Vec<String> = problems.into_iter().collect();
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }

    #[test]
    fn imports_go_in_one_direction() {
        check(rust().iter().flat_map(foreign_imports));
        check(IMPORTS.iter().flat_map(|(member, allowed)| {
            foreign_dependencies(member, allowed, &manifest(&format!("{member}/Cargo.toml")))
        }));
    }

    #[test]
    fn the_top_level_is_as_designed() {
        check(top_level(&top(true), &FOLDERS));
        check(top_level(&top(false), &FILES));
    }

    #[test]
    fn every_file_is_one_noun_long() {
        check(long_files(&sources(), &LONG));
    }

    #[test]
    fn sources_are_ascii() {
        check(sources().iter().flat_map(not_ascii));
    }

    #[test]
    fn every_doctest_is_compiled() {
        check(sources().iter().flat_map(ignored_doctests));
    }

    #[test]
    fn every_example_is_in_the_readme() {
        let examples = examples();
        assert!(!examples.is_empty());
        check(unlisted_examples(&examples, &read("README.md").text));
    }

    #[test]
    fn unsafe_is_in_gpu_alone() {
        check(rust().iter().flat_map(foreign_unsafe));
        let (words, _) = tokens(&read(UNSAFE_ELSEWHERE.0).text);
        assert!(words.contains(&"unsafe".to_owned()), "no excuse is needed");
    }

    #[test]
    fn nothing_is_left_to_be_done() {
        check(rust().iter().flat_map(unfinished));
    }

    #[test]
    fn every_crate_takes_the_lints_and_the_rust_version() {
        let (workspace, members) = (manifest("Cargo.toml"), members());
        check(lints(&workspace, &members));
        check(rust_version(&workspace, &members, &read("README.md").text));
    }

    #[test]
    fn links_of_pages_lead_somewhere() {
        let exists = |path: &str| root().join(path.trim_start_matches('/')).exists();
        let pages = sources()
            .into_iter()
            .filter(|source| source.has_extension("md"));
        check(pages.flat_map(|page| dead_links(&page, exists)));
    }
}

mod samples {
    //! Each rule finds what it is for, and nothing in what is as it should be.

    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    fn none() -> Problems {
        Problems::new()
    }

    #[test]
    fn a_member_that_names_its_neighbour_is_found() {
        let bad = foreign_imports(&source("gpu/a.rs", "use orlop_store::log::Log;"));
        assert_eq!(bad, ["gpu/a.rs may not name orlop_store"]);
        let bad = foreign_imports(&source(
            "saga/a.rs",
            "fn f() { orlop_saga::g(); orlop::h(); }",
        ));
        assert_eq!(bad, ["saga/a.rs may not name orlop"]);
        let bad = foreign_imports(&source("examples/a.rs", "use orlop_gpu as orlop;"));
        assert_eq!(bad, ["examples/a.rs may not name orlop_gpu"]);
        let good = "use orlop_saga::id::Lsn; // not orlop_store\nconst A: &str = \"orlop_store\";";
        assert_eq!(foreign_imports(&source("gpu/a.rs", good)), none());
        assert_eq!(
            foreign_imports(&source("engine/a.rs", "use orlop_store::log;")),
            none()
        );
    }

    #[test]
    fn a_manifest_that_depends_on_a_neighbour_is_found() {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let bad = table(&format!(
                "[{kind}]\norlop-gpu.workspace = true\nserde = \"1\""
            ));
            let found = foreign_dependencies("store", &["orlop_saga"], &bad);
            assert_eq!(found, ["store may not depend on orlop-gpu"]);
        }
        let good = table("[dependencies]\norlop-saga.workspace = true");
        assert_eq!(
            foreign_dependencies("store", &["orlop_saga"], &good),
            none()
        );
    }

    #[test]
    fn a_foreign_and_a_missing_name_are_found() {
        let found = ["saga".to_owned(), "utils".to_owned()];
        let problems = top_level(&found, &["gpu", "saga"]);
        assert_eq!(problems, ["utils does not belong here", "gpu is missing"]);
        assert_eq!(top_level(&found, &["saga", "utils"]), none());
    }

    #[test]
    fn a_long_file_needs_an_excuse_and_a_short_one_has_none() {
        let long = "\n".repeat(LINES_MAX + 1);
        let files = [
            source("gpu/a.rs", &long),
            source("gpu/tests/b.rs", &long),
            source("c.rs", ""),
        ];
        assert_eq!(
            long_files(&files, &[]),
            ["gpu/a.rs has 601 lines, over 600"]
        );
        assert_eq!(long_files(&files, &[("gpu/a.rs", "so")]), none());
        let idle = long_files(&files, &[("gpu/a.rs", "so"), ("c.rs", "why")]);
        assert_eq!(idle, ["c.rs needs no excuse"]);
    }

    #[test]
    fn a_letter_beyond_ascii_is_found_with_its_line() {
        assert_eq!(
            not_ascii(&source("a.md", "a\nb\u{b5}s\n")),
            ["a.md:2 is not ASCII"]
        );
        assert_eq!(not_ascii(&source("a.md", "a\nbus\n")), none());
    }

    #[test]
    fn a_doctest_that_nobody_compiles_is_found() {
        let ignored = "/// ```ignore\n/// x\n/// ```\nfn f() {}";
        assert_eq!(ignored_doctests(&source("a.rs", ignored)).len(), 1);
        assert_eq!(
            ignored_doctests(&source("a.md", "```rust,ignore\nx\n```")).len(),
            1
        );
        let good = "/// ```no_run\n/// x\n/// ```\nfn f() { \"```ignore\"; } // ```ignore";
        assert_eq!(ignored_doctests(&source("a.rs", good)), none());
        assert_eq!(
            ignored_doctests(&source("a.md", "```text\nignore\n```")),
            none()
        );
    }

    #[test]
    fn an_example_that_the_readme_does_not_list_is_found() {
        let examples = ["one".to_owned(), "two".to_owned()];
        let readme = "| `one` | shows one |\ntwo";
        assert_eq!(
            unlisted_examples(&examples, readme),
            ["the README does not list two"]
        );
    }

    #[test]
    fn unsafe_code_and_leave_to_write_it_are_found_outside_gpu() {
        let bad = "#![allow(unsafe_code)] fn f() { unsafe { g() } }";
        assert_eq!(foreign_unsafe(&source("store/a.rs", bad)).len(), 2);
        assert_eq!(foreign_unsafe(&source("gpu/a.rs", bad)), none());
        let (excused, why) = UNSAFE_ELSEWHERE;
        assert!(!why.is_empty());
        assert_eq!(foreign_unsafe(&source(excused, bad)), none());
        let beside = excused.replace("shim", "tape");
        assert_eq!(foreign_unsafe(&source(&beside, bad)).len(), 2);
        assert_eq!(
            foreign_unsafe(&source(
                "store/a.rs",
                "// unsafe\nconst A: &str = \"unsafe\";"
            )),
            none()
        );
    }

    #[test]
    fn what_is_left_to_be_done_is_found() {
        for name in UNFINISHED {
            let bad = format!("fn f() {{ {name}!() }}");
            assert_eq!(
                unfinished(&source("a.rs", &bad)),
                [format!("a.rs calls {name}!")]
            );
        }
        assert_eq!(
            unfinished(&source("a.rs", "fn todo() { \"todo!\"; assert!(todo) }")),
            none()
        );
    }

    fn good_lints() -> String {
        let denied = DENIED.map(|lint| format!("{lint} = \"deny\"\n")).concat();
        "[workspace.lints.rust]\nmissing_docs = \"warn\"\nunsafe_op_in_unsafe_fn = \"warn\"\n\
         unsafe_code = \"deny\"\n[workspace.lints.clippy]\n\
         pedantic = { level = \"warn\", priority = -1 }\n"
            .to_owned()
            + &denied
    }

    #[test]
    fn a_lint_that_is_off_and_a_member_without_lints_are_found() {
        let member = |text| vec![("store".to_owned(), table(text))];
        let taken = member("[lints]\nworkspace = true");
        assert_eq!(lints(&table(&good_lints()), &taken), none());
        for line in good_lints().lines().filter(|line| !line.starts_with('[')) {
            let without = good_lints().replace(&format!("{line}\n"), "");
            assert_eq!(lints(&table(&without), &taken).len(), 1, "{line}");
        }
        let problems = lints(
            &table(&good_lints()),
            &member("[lints.clippy]\nall = \"warn\""),
        );
        assert_eq!(problems, ["store does not take the workspace's lints"]);
    }

    #[test]
    fn a_rust_version_told_in_two_ways_is_found() {
        let workspace = table("[workspace.package]\nrust-version = \"1.95\"");
        let own = vec![(
            "store".to_owned(),
            table("[package]\nrust-version = \"1.90\""),
        )];
        let taken = vec![(
            "store".to_owned(),
            table("[package]\nrust-version.workspace = true"),
        )];
        let problems = rust_version(&workspace, &own, "Rust 1.94 or newer");
        let expected = [
            "the README does not say Rust 1.95 or newer",
            "store does not take the workspace's rust-version",
        ];
        assert_eq!(problems, expected);
        assert_eq!(
            rust_version(&workspace, &taken, "Rust 1.95 or newer."),
            none()
        );
        assert_eq!(rust_version(&table(""), &taken, "").len(), 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let page = source(
            "docs/a.md",
            "[b](b.md#part) [c](../c.md) [web](https://a.b/c.md) [d](#d)",
        );
        let problems = dead_links(&page, |path| path == "docs/b.md");
        assert_eq!(
            problems,
            ["docs/a.md links to ../c.md, which does not exist"]
        );
    }
}
