"""The standard map as plain data: what prompts and generated positions need, without the engine."""

from __future__ import annotations

from dataclasses import dataclass

POWERS = ("AUSTRIA", "ENGLAND", "FRANCE", "GERMANY", "ITALY", "RUSSIA", "TURKEY")

START_UNITS: dict[str, tuple[str, ...]] = {
    "AUSTRIA": ("A BUD", "F TRI", "A VIE"),
    "ENGLAND": ("F EDI", "F LON", "A LVP"),
    "FRANCE": ("F BRE", "A MAR", "A PAR"),
    "GERMANY": ("A BER", "F KIE", "A MUN"),
    "ITALY": ("F NAP", "A ROM", "A VEN"),
    "RUSSIA": ("A MOS", "F SEV", "F STP/SC", "A WAR"),
    "TURKEY": ("F ANK", "A CON", "A SMY"),
}

# location | name | supply centre of | armies move to | fleets move to
_TABLE = """
ADR | Adriatic Sea | - | - | ALB APU ION TRI VEN
AEG | Aegean Sea | - | - | BUL/SC CON EAS GRE ION SMY
ALB | Albania | - | GRE SER TRI | ADR GRE ION TRI
ANK | Ankara | Turkey | ARM CON SMY | ARM BLA CON
APU | Apulia | - | NAP ROM VEN | ADR ION NAP VEN
ARM | Armenia | - | ANK SEV SMY SYR | ANK BLA SEV
BAL | Baltic Sea | - | - | BER BOT DEN KIE LVN PRU SWE
BAR | Barents Sea | - | - | NWG NWY STP/NC
BEL | Belgium | Neutral | BUR HOL PIC RUH | ENG HOL NTH PIC
BER | Berlin | Germany | KIE MUN PRU SIL | BAL KIE PRU
BLA | Black Sea | - | - | ANK ARM BUL/EC CON RUM SEV
BOH | Bohemia | - | GAL MUN SIL TYR VIE | -
BOT | Gulf of Bothnia | - | - | BAL FIN LVN STP/SC SWE
BRE | Brest | France | GAS PAR PIC | ENG GAS MAO PIC
BUD | Budapest | Austria | GAL RUM SER TRI VIE | -
BUL | Bulgaria | Neutral | CON GRE RUM SER | -
BUL/EC | Bulgaria (east coast) | - | - | BLA CON RUM
BUL/SC | Bulgaria (south coast) | - | - | AEG CON GRE
BUR | Burgundy | - | BEL GAS MAR MUN PAR PIC RUH | -
CLY | Clyde | - | EDI LVP | EDI LVP NAO NWG
CON | Constantinople | Turkey | ANK BUL SMY | AEG ANK BLA BUL/EC BUL/SC SMY
DEN | Denmark | Neutral | KIE SWE | BAL HEL KIE NTH SKA SWE
EAS | Eastern Mediterranean | - | - | AEG ION SMY SYR
EDI | Edinburgh | England | CLY LVP YOR | CLY NTH NWG YOR
ENG | English Channel | - | - | BEL BRE IRI LON MAO NTH PIC WAL
FIN | Finland | - | NWY STP SWE | BOT STP/SC SWE
GAL | Galicia | - | BOH BUD RUM SIL UKR VIE WAR | -
GAS | Gascony | - | BRE BUR MAR PAR SPA | BRE MAO SPA/NC
GRE | Greece | Neutral | ALB BUL SER | AEG ALB BUL/SC ION
HEL | Heligoland Bight | - | - | DEN HOL KIE NTH
HOL | Holland | Neutral | BEL KIE RUH | BEL HEL KIE NTH
ION | Ionian Sea | - | - | ADR AEG ALB APU EAS GRE NAP TUN TYS
IRI | Irish Sea | - | - | ENG LVP MAO NAO WAL
KIE | Kiel | Germany | BER DEN HOL MUN RUH | BAL BER DEN HEL HOL
LON | London | England | WAL YOR | ENG NTH WAL YOR
LVN | Livonia | - | MOS PRU STP WAR | BAL BOT PRU STP/SC
LVP | Liverpool | England | CLY EDI WAL YOR | CLY IRI NAO WAL
LYO | Gulf of Lyon | - | - | MAR PIE SPA/SC TUS TYS WES
MAO | Mid-Atlantic Ocean | - | - | BRE ENG GAS IRI NAF NAO POR SPA/NC SPA/SC WES
MAR | Marseilles | France | BUR GAS PIE SPA | LYO PIE SPA/SC
MOS | Moscow | Russia | LVN SEV STP UKR WAR | -
MUN | Munich | Germany | BER BOH BUR KIE RUH SIL TYR | -
NAF | North Africa | - | TUN | MAO TUN WES
NAO | North Atlantic Ocean | - | - | CLY IRI LVP MAO NWG
NAP | Naples | Italy | APU ROM | APU ION ROM TYS
NTH | North Sea | - | - | BEL DEN EDI ENG HEL HOL LON NWG NWY SKA YOR
NWG | Norwegian Sea | - | - | BAR CLY EDI NAO NTH NWY
NWY | Norway | Neutral | FIN STP SWE | BAR NTH NWG SKA STP/NC SWE
PAR | Paris | France | BRE BUR GAS PIC | -
PIC | Picardy | - | BEL BRE BUR PAR | BEL BRE ENG
PIE | Piedmont | - | MAR TUS TYR VEN | LYO MAR TUS
POR | Portugal | Neutral | SPA | MAO SPA/NC SPA/SC
PRU | Prussia | - | BER LVN SIL WAR | BAL BER LVN
ROM | Rome | Italy | APU NAP TUS VEN | NAP TUS TYS
RUH | Ruhr | - | BEL BUR HOL KIE MUN | -
RUM | Rumania | Neutral | BUD BUL GAL SER SEV UKR | BLA BUL/EC SEV
SER | Serbia | Neutral | ALB BUD BUL GRE RUM TRI | -
SEV | Sevastopol | Russia | ARM MOS RUM UKR | ARM BLA RUM
SIL | Silesia | - | BER BOH GAL MUN PRU WAR | -
SKA | Skagerrak | - | - | DEN NTH NWY SWE
SMY | Smyrna | Turkey | ANK ARM CON SYR | AEG CON EAS SYR
SPA | Spain | Neutral | GAS MAR POR | -
SPA/NC | Spain (north coast) | - | - | GAS MAO POR
SPA/SC | Spain (south coast) | - | - | LYO MAO MAR POR WES
STP | St Petersburg | Russia | FIN LVN MOS NWY | -
STP/NC | St Petersburg (north coast) | - | - | BAR NWY
STP/SC | St Petersburg (south coast) | - | - | BOT FIN LVN
SWE | Sweden | Neutral | DEN FIN NWY | BAL BOT DEN FIN NWY SKA
SYR | Syria | - | ARM SMY | EAS SMY
TRI | Trieste | Austria | ALB BUD SER TYR VEN VIE | ADR ALB VEN
TUN | Tunis | Neutral | NAF | ION NAF TYS WES
TUS | Tuscany | - | PIE ROM VEN | LYO PIE ROM TYS
TYR | Tyrolia | - | BOH MUN PIE TRI VEN VIE | -
TYS | Tyrrhenian Sea | - | - | ION LYO NAP ROM TUN TUS WES
UKR | Ukraine | - | GAL MOS RUM SEV WAR | -
VEN | Venice | Italy | APU PIE ROM TRI TUS TYR | ADR APU TRI
VIE | Vienna | Austria | BOH BUD GAL TRI TYR | -
WAL | Wales | - | LON LVP YOR | ENG IRI LON LVP
WAR | Warsaw | Russia | GAL LVN MOS PRU SIL UKR | -
WES | Western Mediterranean | - | - | LYO MAO NAF SPA/SC TUN TYS
YOR | Yorkshire | - | EDI LON LVP WAL | EDI LON NTH
"""


@dataclass(frozen=True, slots=True)
class Location:
    """A province, or one coast (``STP/SC``) of a province that has two."""

    code: str
    name: str
    is_center: bool
    home_of: str | None  # the power that may build here
    army_moves: tuple[str, ...]
    fleet_moves: tuple[str, ...]

    @property
    def is_coast(self) -> bool:
        """Only one coast of a province: no army stands here by this code."""
        return "/" in self.code

    @property
    def is_sea(self) -> bool:
        return not self.army_moves and not self.is_coast


def _parse(row: str) -> Location:
    code, name, owner, armies, fleets = (cell.strip() for cell in row.split("|"))
    return Location(
        code=code,
        name=name,
        is_center=owner != "-",
        home_of=owner.upper() if owner.upper() in POWERS else None,
        army_moves=tuple(armies.replace("-", "").split()),
        fleet_moves=tuple(fleets.replace("-", "").split()),
    )


LOCATIONS: dict[str, Location] = {location.code: location for location in map(_parse, _TABLE.strip().splitlines())}
CENTERS = tuple(location.code for location in LOCATIONS.values() if location.is_center)
HOMES: dict[str, tuple[str, ...]] = {
    power: tuple(code for code in CENTERS if LOCATIONS[code].home_of == power) for power in POWERS
}


def province_of(location: str) -> str:
    """``STP/SC`` is on the coast of ``STP``; other locations are provinces themselves."""
    return location[:3]


def coasts_of(province: str) -> tuple[str, ...]:
    """The two coasts of a province that has two, else nothing."""
    return tuple(code for code in LOCATIONS if code != province and code[:3] == province)


def moves_of(unit: str) -> tuple[str, ...]:
    """Where a unit (``A PAR``) can go in one move, without a convoy."""
    location = LOCATIONS[unit[2:]]
    return location.army_moves if unit[0] == "A" else location.fleet_moves
