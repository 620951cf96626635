//! The XML of AWS's answers, and nothing else of XML: elements, text and the five entities. No declarations but the first, no comments, no CDATA, no references.

use zeroize::Zeroizing;

const BYTES_MAX: usize = 256 << 10;
const DEPTH_MAX: usize = 8;
const ELEMENTS_MAX: usize = 256;

/// An element with its text or its children. Text is wiped: some of it is secret.
pub(super) struct Element {
    name: String,
    text: Zeroizing<String>,
    children: Vec<Element>,
}

impl Element {
    /// The one element of a document; `None` for what is not exactly that.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= BYTES_MAX)?;
        let mut rest = text.trim_start();
        if let Some(declared) = rest.strip_prefix("<?xml ") {
            rest = declared.split_once("?>").filter(|(declaration, _)| !declaration.contains('<'))?.1.trim_start();
        }
        let mut left = ELEMENTS_MAX;
        let (element, rest) = element(rest, 0, &mut left)?;
        rest.trim_end().is_empty().then_some(element)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The one child of this name; `None` too if there are two.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        let mut of_name = self.children.iter().filter(|child| child.name == name);
        of_name.next().filter(|_| of_name.next().is_none())
    }
}

fn element<'a>(text: &'a str, depth: usize, left: &mut usize) -> Option<(Element, &'a str)> {
    *left = left.checked_sub(1)?;
    if depth >= DEPTH_MAX {
        return None;
    }
    let (tag, mut rest) = text.strip_prefix('<')?.split_once('>')?;
    let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
    let mut element = Element { name: name(tag)?.to_owned(), text: Zeroizing::new(String::new()), children: Vec::new() };
    if empty {
        return Some((element, rest));
    }
    loop {
        let at = rest.find('<')?;
        let (words, markup) = rest.split_at_checked(at)?;
        if !words.trim().is_empty() {
            // Either text or children: a mixture is none of AWS's.
            if !element.text.is_empty() || !element.children.is_empty() {
                return None;
            }
            element.text = unescaped(words)?;
        }
        if let Some(closing) = markup.strip_prefix("</") {
            let (closed, after) = closing.split_once('>')?;
            return (closed.trim_end() == element.name).then_some((element, after));
        }
        if !element.text.is_empty() {
            return None;
        }
        let (child, after) = self::element(markup, depth.saturating_add(1), left)?;
        element.children.push(child);
        rest = after;
    }
}

/// The name of an opening tag, whose attributes can only be a namespace.
fn name(tag: &str) -> Option<&str> {
    let (name, attributes) = tag.split_once(' ').map_or((tag, ""), |(name, attributes)| (name, attributes.trim()));
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let namespace = attributes.is_empty()
        || attributes.strip_prefix("xmlns=\"").and_then(|rest| rest.strip_suffix('"')).is_some_and(|url| !url.contains(['"', '<', '&']));
    (named && namespace).then_some(name)
}

fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text.trim();
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (entity, after) = after.split_once(';')?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => return None,
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_is_read() {
        let text =
            "<?xml version=\"1.0\"?>\n<R xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n <A><K>a&amp;b</K><E/></A>\n <M>x &lt; y</M>\n</R>\n";
        let root = Element::parse(text.as_bytes()).unwrap();
        assert_eq!(root.name(), "R");
        assert_eq!(root.child("A").unwrap().child("K").unwrap().text(), "a&b");
        assert_eq!(root.child("A").unwrap().child("E").unwrap().text(), "");
        assert_eq!(root.child("M").unwrap().text(), "x < y");
        assert!(root.child("K").is_none());
    }

    #[test]
    fn what_is_more_than_an_answer_is_none() {
        let deep = "<a>".repeat(9) + &"</a>".repeat(9);
        let wide = format!("<r>{}</r>", "<a/>".repeat(300));
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a><b></a></b>",
            "<a>x<b/></a>",
            "<a><b/>x</a>",
            "<a>&#65;</a>",
            "<a>&x;</a>",
            "<a b=\"c\"/>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a><!-- x --></a>",
            "<a><![CDATA[x]]></a>",
            "<a><?p x?></a>",
            "<?xml <a/>?><a/>",
            &deep,
            &wide,
        ] {
            assert!(Element::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Element::parse(b"<a><b>1</b><b>2</b></a>").unwrap().child("b").is_none());
        assert!(Element::parse(&[b'<', 0xff]).is_none());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_stumble(text in "[<>/a&;! x\\[\\]?\"=-]{0,60}") {
            drop(Element::parse(text.as_bytes()));
        }
    }
}
