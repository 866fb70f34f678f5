#[test]
fn dump() {
    for k in super::keys() { println!("KEY\t{}\t{}\t{:?}\t{}\t{}\t{}", k.section.name(), k.name, k.default, k.range, k.reloadable, k.doc); }
}
