//! Small files of every tensor format, made by hand.
#![allow(dead_code, missing_docs, reason = "shared by test binaries of which each uses a part")]

/// A tensor's name and bytes.
pub type Named = (&'static str, Vec<u8>);

/// Bytes that do not repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub fn tensors() -> Vec<Named> {
    vec![("a", noise(1, 3 << 20)), ("b", noise(2, 100)), ("c", noise(3, 1_300_000)), ("d", noise(4, 200_000))]
}

pub fn raw_safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub fn safetensors(tensors: &[Named], pad: usize) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let (length, end) = (bytes.len(), data.len());
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{start},{end}]}}"#));
    }
    raw_safetensors(&format!("{{{}}}{}", entries.join(","), " ".repeat(pad)), &data)
}

pub fn npy(data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", data.len());
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub fn zip(members: &[(&str, Vec<u8>)], zip64: bool) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let (at, size) = (out.len() as u32, bytes.len() as u32);
        out.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        out.extend([size.to_le_bytes(), size.to_le_bytes()].concat());
        out.extend([(name.len() as u16).to_le_bytes(), 6u16.to_le_bytes()].concat());
        out.extend(name.as_bytes());
        out.extend(b"FB\x02\0ZZ");
        out.extend(bytes);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let stated = if zip64 { u32::MAX } else { size };
        directory.extend([stated.to_le_bytes(), stated.to_le_bytes()].concat());
        let extra = if zip64 { 28u16 } else { 0 };
        directory.extend([(name.len() as u16).to_le_bytes(), extra.to_le_bytes(), [0; 2]].concat());
        directory.extend([0; 8]);
        directory.extend(if zip64 { u32::MAX } else { at }.to_le_bytes());
        directory.extend(name.as_bytes());
        if zip64 {
            directory.extend([1, 0, 24, 0]);
            directory.extend([size, size, at].iter().flat_map(|value| u64::from(*value).to_le_bytes()));
        }
    }
    let (at, size, count) = (out.len() as u64, directory.len() as u64, members.len() as u64);
    out.extend(directory);
    if zip64 {
        let end = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend([0; 12]);
        out.extend([count, count, size, at].iter().flat_map(|value| value.to_le_bytes()));
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(end.to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    let short = |value: u64| if zip64 { u16::MAX } else { value as u16 }.to_le_bytes();
    let word = |value: u64| if zip64 { u32::MAX } else { value as u32 }.to_le_bytes();
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([short(count), short(count)].concat());
    out.extend([word(size), word(at)].concat());
    out.extend([0; 2]);
    out
}

pub fn torch(tensors: &[Named], zip64: bool) -> Vec<u8> {
    let names: Vec<String> = (0..tensors.len()).map(|n| format!("archive/data/{n}")).collect();
    let mut members = vec![("archive/data.pkl", noise(9, 500))];
    members.extend(names.iter().zip(tensors).map(|(name, (_, bytes))| (name.as_str(), bytes.clone())));
    members.push(("archive/version", b"3\n".to_vec()));
    zip(&members, zip64)
}

/// Tensors of (ggml type, elements, offset, bytes).
pub fn raw_gguf(tensors: &[(u32, u64, u64)], data: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend([tensors.len() as u64, 3].iter().flat_map(|value| value.to_le_bytes()));
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    text(&mut out, "general.name");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "a name");
    text(&mut out, "tokens");
    out.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "one");
    text(&mut out, "two");
    text(&mut out, "general.alignment");
    out.extend([4u32.to_le_bytes(), 64u32.to_le_bytes()].concat());
    for &(kind, elements, offset) in tensors {
        text(&mut out, "weight");
        out.extend(1u32.to_le_bytes());
        out.extend(elements.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(64), 0);
    out.extend(data);
    out
}

pub fn gguf(tensors: &[Named]) -> Vec<u8> {
    let (mut infos, mut data) = (Vec::new(), Vec::new());
    for (_, bytes) in tensors {
        infos.push((24, bytes.len() as u64, data.len() as u64));
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(64), 0);
    }
    raw_gguf(&infos, &data)
}

pub fn small() -> Vec<Named> {
    vec![("a", noise(1, 300)), ("b", noise(2, 128)), ("c", noise(3, 70))]
}

pub fn every_format(tensors: &[Named]) -> Vec<Vec<u8>> {
    let members: Vec<_> = tensors.iter().map(|(name, bytes)| (format!("{name}.npy"), npy(bytes))).collect();
    let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    vec![
        safetensors(tensors, 3),
        torch(tensors, false),
        torch(tensors, true),
        gguf(tensors),
        zip(&members, false),
        zip(&members, true),
    ]
}
