//! Gates: "may this start?" for what many calls share.
