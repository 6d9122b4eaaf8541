// Programs do not belong into uploads. The strings may be anywhere, because a form puts its own text before a file.
rule linux_program
{
    strings:
        // The beginning of an ELF file: 32 or 64 bits, little or big endian, version 1.
        $elf = { 7F 45 4C 46 ( 01 | 02 ) ( 01 | 02 ) 01 }
    condition:
        $elf
}

rule php_code
{
    strings:
        $open = "<?php" nocase
    condition:
        $open
}
