//! Places that nodes of a scenario say they are at. It starts nothing.

/// Where a node that joins says it is.
#[derive(Debug, Clone)]
pub struct Site {
    /// 127.D.O.N.
    pub ip: [u8; 4],
    /// Label.
    pub region: String,
    /// Label.
    pub datacenter: String,
    /// Label.
    pub operator: String,
}

impl Site {
    /// The `number`th fresh node of a scenario: five datacenters of their own in three regions,
    /// two nodes of each operator.
    #[must_use]
    pub fn fresh(number: usize) -> Self {
        let (datacenter, slot) = (number % 5, number / 5);
        let operator = 100 + datacenter * 20 + slot / 2;
        let octet = |value: usize| u8::try_from(value).expect("few nodes");
        Self {
            ip: [127, octet(100 + datacenter), octet(operator), octet(1 + number)],
            region: ["eu", "us", "ap"][datacenter % 3].to_owned(),
            datacenter: format!("fresh-{datacenter}"),
            operator: format!("fresh-operator-{operator}"),
        }
    }
}
